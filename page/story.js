// The story of the page, from Tell to Download: the steps that run in the browser alone.

// Continues with the next step of a link when the step before it is told.
storyteller.follow = () => {
  if (storyteller.coming.length && !storyteller.telling) document.querySelector("#go_on").click();
};
storyteller.pause = () => new Promise((done) => setTimeout(done, 50));

// A stop reaches only a story that the server has begun, so it waits for the first piece.
storyteller.heard = async () => {
  while (storyteller.telling && !storyteller.current?.running) await storyteller.pause();
};

// Stops the story that is being told, if any, and waits until it is in the history.
storyteller.ended = async () => {
  if (storyteller.telling) document.querySelector("#stop").click();
  for (let i = 0; storyteller.telling && i < 100; i++) await storyteller.pause();
};

// One story begins after the other: of two that waited for the same end, the first would otherwise replace the second.
storyteller.begun = Promise.resolve();
storyteller.begin = () => (storyteller.begun = storyteller.begun.then(storyteller.beginNext, storyteller.beginNext));
storyteller.beginNext = async () => {
  await storyteller.ended();
  storyteller.telling = true;
  storyteller.continued = []; // the earlier steps
  storyteller.address(null);
};

// The settings that tell the story again. For a stopped story, the length is what was told of it.
storyteller.steps = ({ steps, settings, running, stopped, written }) => {
  const step = { ...settings, length: ((running || stopped) && written) || settings.length };
  if (storyteller.continued.length) delete step.prompt; // the prompt is the story so far
  return steps ?? [...storyteller.continued, step];
};

// The story as it is kept. One that still runs was broken off, by a reload or an error.
storyteller.told = (telling) => {
  // A Continue that wrote nothing is not a step.
  const isStep = telling.written || !storyteller.continued.length;
  const steps = isStep ? storyteller.steps(telling) : storyteller.continued;
  return { ...telling, steps, running: false, stopped: telling.running || Boolean(telling.stopped) };
};

// Puts a story into the history, which it returns.
storyteller.shelve = (telling) => {
  const same = (other) => JSON.stringify(other.steps) === JSON.stringify(telling.steps);
  const all = [telling, ...storyteller.history.read().filter((other) => !same(other))].slice(0, 20);
  storyteller.history.write(all);
  return all;
};

// The story is over, or was refused: puts its link into the address bar, and the story into the history.
storyteller.over = () => {
  storyteller.telling = false;
  const { current } = storyteller;
  if (!current || current.running || current.stopped || current.steps) storyteller.coming = []; // no link goes on
  if (!current || storyteller.clearing) return [null, undefined];
  const telling = storyteller.told(current);
  storyteller.address(telling.steps);
  return [telling, storyteller.shelve(telling)];
};

storyteller.forget = () => {
  storyteller.history.write([]);
  return [[]]; // Gradio reads an array as the list of outputs
};

storyteller.clear = async () => {
  storyteller.clearing = true;
  await storyteller.ended();
  storyteller.clearing = false;
  storyteller.address(null);
  return ["", null, null];
};

storyteller.recall = async () => {
  const { chosen } = storyteller;
  await storyteller.ended();
  // Older stories lack these two settings.
  const steps = chosen.steps.map((step) => ({ ...step, drafts: step.drafts ?? 1, beams: step.beams ?? 1 }));
  storyteller.address(steps);
  const [first] = steps;
  return [{ ...chosen, steps }, first.prompt, first.model, ...SETTINGS.map((name) => first[name])];
};

// The same settings with seed -1, so that the server draws a new one.
storyteller.reseeded = (settings) => settings.map((value, i) => (SETTINGS[i] === "seed" ? -1 : value));
storyteller.another = (model, prompt, ...settings) => [model, prompt, ...storyteller.reseeded(settings)];

storyteller.whole = (telling) => (telling ? telling.prompt + telling.text : "");

storyteller.continuing = (model, telling, again, ...settings) => {
  storyteller.continued = telling?.steps ?? [];
  // The next step of a link, or else the current settings with a new seed: the same seed would repeat the same text.
  const [teller, ...how] = storyteller.coming.shift() ?? [model, ...storyteller.reseeded(settings)];
  const paragraph = telling?.ended && !telling.text.endsWith("\n") ? "\n" : ""; // else the model ends the story again
  return [teller, storyteller.whole(telling) + paragraph, [...(telling?.prompt ?? "")].length, ...how];
};

storyteller.edit = () => {
  const whole = storyteller.whole(storyteller.current);
  const end = storyteller.last(whole, storyteller.limit);
  const written = end === whole ? whole : end.replace(/^\S{0,40}\s/, ""); // the rest of a word, where there are blanks
  const box = document.querySelector("#prompt textarea");
  setTimeout(() => {
    box.focus();
    box.setSelectionRange(written.length, written.length);
    box.scrollTop = box.scrollHeight;
  }, 100);
  const limit = storyteller.number(storyteller.limit);
  return [written, end === whole ? null : { text: storyteller.say("edit_end", { limit }) }];
};

// Puts a text into the clipboard, and returns whether it is there. On plain http, or in a frame without the permission, a
// page may not write there, but it may copy what is selected.
storyteller.toClipboard = async (text) => {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const box = storyteller.make("textarea", { class: "unseen", readonly: "", "aria-hidden": "true" });
    const { activeElement } = document;
    box.value = text;
    document.body.append(box);
    box.focus({ preventScroll: true });
    box.select();
    const done = document.execCommand("copy");
    box.remove();
    activeElement?.focus({ preventScroll: true });
    return done;
  }
};

storyteller.copy = async () => {
  const button = document.querySelector("#copy");
  const done = (await storyteller.toClipboard(storyteller.whole(storyteller.current))) ? "copied" : "not_copied";
  button.textContent = storyteller.say(done);
  storyteller.announce(storyteller.say(done));
  setTimeout(() => (button.textContent = storyteller.say("copy")), 2000);
  return null;
};

storyteller.download = () => {
  const telling = storyteller.current;
  const [{ prompt, ...settings }, ...more] = storyteller.steps(telling);
  const written = (step, mark, between) => Object.entries(step).map((pair) => pair.join(mark)).join(between);
  const lines = [written(settings, ": ", "\n"), `prompt: ${JSON.stringify(prompt)}`];
  lines.push(...more.map((step) => `then ${written(step, "=", " ")}`));
  const text = `${storyteller.whole(telling)}\n\n---\n${lines.join("\n")}\n`;
  const url = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  storyteller.make("a", { href: url, download: `story-${settings.model}-${settings.seed}.txt` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
  return null;
};

// For the tab "Look inside".
storyteller.lastPart = () => storyteller.last(storyteller.whole(storyteller.current), storyteller.limit);
// The model that told the story reads it, whichever is chosen now.
storyteller.lookingAtStory = (model, text) => [storyteller.current?.settings.model ?? model, text];
storyteller.looking = (model, colours, again, ...sampler) => [
  colours.model, // the model that read the text, even if another is chosen now
  colours.characters,
  storyteller.index,
  ...sampler,
];
storyteller.attending = (model, colours, again, layer, head) => {
  const characters = colours ? colours.characters : "";
  return [colours ? colours.model : model, characters, storyteller.index ?? [...characters].length, layer, head];
};
storyteller.attendAgain = () => storyteller.attended && document.querySelector("#attend").click();
storyteller.reselect = () => storyteller.index !== undefined && storyteller.lookAgain();

storyteller.enter = (tab) => {
  visit.tab = document.body.dataset.tab = tab;
  const whole = storyteller.lastPart();
  const written = document.querySelector("#text textarea")?.value;
  if (tab === "look" && whole && whole !== visit.looked && (!written || written === visit.looked)) {
    visit.looked = whole;
    document.querySelector("#look_story").click();
  }
};
