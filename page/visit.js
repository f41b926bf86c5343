// What a visitor has on the page: in the address bar a link that tells the story again, and in the tab's own storage all
// that a reload would lose. Gradio reloads the page by itself after a lost connection.

// A value that survives a reload, until the tab is closed. In a Space the page is a frame in another site. A browser that
// blocks third-party cookies gives such a frame no storage: then a reload loses the value.
// `mend` turns what is stored, which may be null or from another version of the page, into a usable value.
storyteller.stored = (key, mend) => {
  let value = null;
  try {
    value = JSON.parse(sessionStorage.getItem(key));
  } catch { // no storage, or not JSON: begin without it
  }
  value = mend(value);
  const write = (next) => {
    value = next;
    try {
      sessionStorage.setItem(key, JSON.stringify(value));
    } catch { // no storage, or it is full: the value lasts as long as the page
    }
  };
  return { read: () => value, write };
};

// A story has steps: Tell, and each Continue. The settings of all steps tell it again.
const SETTINGS = ["length", "temperature", "top_k", "top_p", "min_p", "seed", "drafts", "beams"];
const FORMER = SETTINGS.slice(0, 6); // in stories and links from before there were drafts: one draft and one beam

const isText = (it) => typeof it === "string";
const isStep = (it) => isText(it?.model) && FORMER.every((name) => typeof it[name] === "number");
const isTelling = (it) =>
  isText(it?.prompt) && isText(it.text) && isStep(it.settings) && Array.isArray(it.dropped) &&
  [it.written, it.speed].every(Number.isFinite);
const isTold = (it) => isTelling(it) && Array.isArray(it.steps) && isText(it.steps[0]?.prompt) && it.steps.every(isStep);
const isScored = (it) =>
  isText(it?.model) && isText(it.characters) && Array.isArray(it.dropped) && /^\[[\d.,e\s-]*\]$/.test(it.bits) &&
  [it.bits_per_character, it.average_bits_per_character].every(Number.isFinite);

storyteller.history = storyteller.stored("stories", (kept) => (Array.isArray(kept) ? kept.filter(isTold) : []));

const component = (name) => window.gradio_config.components.find(({ props }) => props.elem_id === name);

// Whether a component, named by its elem_id, can take a value. A model may be gone since the value was stored.
storyteller.takes = (name, value) => {
  const { type, props } = component(name);
  if (name === "story") return isTold(value);
  if (name === "stories") return Array.isArray(value) && value.every(isTelling);
  if (name === "colours") return isScored(value);
  if (type === "textbox") return isText(value);
  if (type === "slider") return typeof value === "number" && value >= props.minimum && value <= props.maximum;
  if (type === "number") return Number.isSafeInteger(value) && value >= -1;
  return props.choices.some(([, choice]) => choice === value);
};

// What the page shows: the values of its components, the open tab, the text that "Look inside" took from the story, and
// the link that the page has put into the address bar, without its #.
const kept = storyteller.stored("visit", (it) => ({ ...it, values: { ...it?.values } }));
const visit = { values: {} };

// Called for each change of a component.
storyteller.remember = (name, value) => {
  visit.values[name] = value;
  storyteller.saving ??= setTimeout(storyteller.save, 500);
};

// What a component's own element holds. Undefined if it has none yet, no number, or no whole name of a choice.
storyteller.entered = (name) => {
  const fields = 'textarea, input[type="number"], input[role="combobox"]';
  const field = document.querySelector(`#${name} :is(${fields})`);
  if (field?.matches("[role]")) return component(name).props.choices.find(([label]) => label === field.value)?.[1];
  if (field?.type === "number") return field.value ? field.valueAsNumber : undefined;
  return field?.value;
};

storyteller.save = () => {
  clearTimeout(storyteller.saving);
  storyteller.saving = undefined;
  if (!storyteller.names) return; // the page has not opened: what was kept stays
  // While the connection is lost, Gradio reports no changes: what is typed or chosen then is only in the elements.
  for (const name of storyteller.names) visit.values[name] = storyteller.entered(name) ?? visit.values[name];
  visit.tab = document.querySelector('[role="tab"][aria-selected="true"]')?.dataset.tabId ?? visit.tab;
  const { story, stories } = visit.values;
  const over = { ...visit.values };
  if (story) over.story = storyteller.told(story);
  if (stories) over.stories = stories.map((it) => ({ ...it, running: false, stopped: it.running || it.stopped }));
  const running = Boolean(story?.running);
  kept.write({ ...visit, values: over, running, index: storyteller.index ?? storyteller.reopened });
};
window.addEventListener("pagehide", storyteller.save);

// The address bar holds the link to the story after a #, which the browser does not send to the server.
storyteller.address = (steps) => {
  const [first, ...more] = steps ?? [];
  const link = new URLSearchParams(first);
  for (const step of more) link.append("then", [...SETTINGS.map((name) => step[name]), step.model].join());
  visit.link = steps ? String(link) : "";
  history.replaceState(null, "", location.pathname + location.search + (steps ? `#${link}` : ""));
  // In a Space the page is a frame: the Hub writes the link into its own address bar.
  if (window.parent !== window) window.parent.postMessage({ hash: visit.link }, "https://huggingface.co");
};

// What the page opens with: values for the components of `names`, the tab, the history. A link that the visitor follows
// comes first, and otherwise what was here before a reload. An undefined value changes nothing.
storyteller.open = (names) => {
  const before = kept.read();
  const usable = names.filter((name) => storyteller.takes(name, before.values[name]));
  const values = Object.fromEntries(usable.map((name) => [name, before.values[name]]));
  visit.link = location.hash.slice(1);
  const link = new URLSearchParams(visit.link);
  const isOwn = visit.link === before.link && (values.story || !link.has("seed"));
  const isFollowed = !isOwn && ["prompt", "model", ...SETTINGS].some((name) => link.has(name));
  storyteller.untold = isFollowed && link.has("seed");
  visit.values = isFollowed ? storyteller.linked(link) : values;
  if (!isFollowed) {
    Object.assign(visit, { tab: before.tab, looked: before.looked });
    storyteller.reopened = Number.isInteger(before.index) ? before.index : undefined; // the chosen character
  }
  if (values.story && before.running) storyteller.shelve(values.story); // a reload in the middle of it has ended it
  if (values.story && !isFollowed) storyteller.address(values.story.steps);
  document.querySelector("#model").translate = false; // Gradio writes other names into the nodes of its list
  storyteller.names = names; // from now on, changes are kept
  const isTab = window.gradio_config.components.some(({ type, props }) => type === "tabitem" && props.id === visit.tab);
  const tab = isTab ? { __type__: "update", selected: visit.tab } : undefined;
  return [...names.map((name) => visit.values[name]), tab, storyteller.history.read()];
};

// The settings in a link, by component. Its later steps are in `storyteller.coming`.
storyteller.linked = (link) => {
  const isNumber = (text) => text.trim() !== "" && Math.abs(Number(text)) <= Number.MAX_SAFE_INTEGER; // NaN is not
  const number = (text) => (isNumber(text) ? Number(text) : text); // a refusal shows what the link says
  const isFormer = link.has("seed") && !link.has("drafts");
  const names = isFormer ? FORMER : SETTINGS;
  storyteller.coming = link.getAll("then").map((step) => {
    const values = step.split(",");
    const drafts = isFormer ? [1, 1] : [];
    return [values.slice(names.length).join(), ...values.slice(0, names.length).map(number), ...drafts];
  });
  const values = isFormer ? { drafts: 1, beams: 1 } : {};
  for (const name of ["prompt", "model"]) if (link.has(name)) values[name] = link.get(name);
  for (const name of names) if (link.has(name)) values[name] = number(link.get(name));
  return values;
};

storyteller.tellLink = () => {
  if (storyteller.untold) document.querySelector("#tell").click();
};

// The visitor has pasted a link into the address bar of the open page.
window.addEventListener("hashchange", () => location.reload());
