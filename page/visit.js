// What a visitor has on the page: the stories of this visit, and in the address bar a link that tells the story again.

// The stories of this visit. They survive a reload, and are lost when the tab is closed. In a Space the page is a frame
// in another site. A browser that blocks third-party cookies gives such a frame no storage: then a reload loses them.
storyteller.history = (() => {
  let kept = "[]";
  try {
    sessionStorage.length;
  } catch {
    return { read: () => JSON.parse(kept), write: (stories) => (kept = JSON.stringify(stories)) };
  }
  return {
    read: () => JSON.parse(sessionStorage.getItem("stories") ?? "[]"),
    write: (stories) => sessionStorage.setItem("stories", JSON.stringify(stories)),
  };
})();

// A story has steps: Tell, and each Continue. The settings of all steps tell it again. The address bar holds them after
// a #, which the browser does not send to the server.
const SETTINGS = ["length", "temperature", "top_k", "top_p", "min_p", "seed", "drafts", "beams"];
const FORMER = SETTINGS.slice(0, 6); // in links from before there were drafts: these mean one draft and one beam

storyteller.address = (steps) => {
  const [first, ...more] = steps ?? [];
  const link = new URLSearchParams(first);
  for (const step of more) link.append("then", [...SETTINGS.map((name) => step[name]), step.model].join());
  const hash = steps ? `#${link}` : "";
  history.replaceState(null, "", location.pathname + location.search + hash);
  // In a Space the page is a frame: the Hub writes the link into its own address bar.
  if (window.parent !== window) window.parent.postMessage({ hash: hash.slice(1) }, "https://huggingface.co");
};

storyteller.open = () => {
  const link = new URLSearchParams(location.hash.slice(1));
  const number = (text) => (text.trim() === "" || Number.isNaN(Number(text)) ? text : Number(text));
  const isFormer = link.has("seed") && !link.has("drafts");
  const names = isFormer ? FORMER : SETTINGS;
  storyteller.coming = link.getAll("then").map((step) => {
    const values = step.split(",");
    const drafts = isFormer ? [1, 1] : [];
    return [values.slice(names.length).join(), ...values.slice(0, names.length).map(number), ...drafts];
  });
  return ["prompt", "model", ...SETTINGS].map((name, i) => {
    if (isFormer && !names.includes(name) && i > 1) return 1;
    if (!link.has(name)) return undefined; // changes nothing, because the visitor may already be typing
    return i < 2 ? link.get(name) : number(link.get(name));
  });
};

storyteller.tellLink = () => {
  if (new URLSearchParams(location.hash.slice(1)).has("seed")) document.querySelector("#tell").click();
};

// The visitor has pasted a link into the address bar of the open page.
window.addEventListener("hashchange", () => location.reload());
