// The views: each draws its value. They write text as text, never as HTML.
(() => {
  const { views, say, make, number, percent, visible, drawn } = storyteller;

  // Makes the inputs of a field visible, and returns them. Gradio creates those in an accordion when it first opens.
  async function revealed(field) {
    const inputs = () => [...document.querySelectorAll(`#${field} :is(input, textarea)`)];
    const folded = ["beams", "top_k", "top_p", "min_p", "seed"].includes(field);
    const closed = document.querySelector("#settings_switch input:not(:checked)");
    if (closed?.checkVisibility() && (folded || inputs()[0]?.closest("#settings"))) closed.click();
    const hidden = () => folded && !inputs()[0]?.checkVisibility();
    if (hidden()) document.querySelector("#more > button").click();
    for (let i = 0; hidden() && i < 20; i++) await storyteller.pause();
    return inputs();
  }

  // Shows why a request was refused: below the field at fault, which is marked until the next answer, or else here.
  views.refusal = (element, props, watch) => {
    element.firstElementChild.setAttribute("role", "alert");
    element.firstElementChild.className = "refusal";
    let forget = () => {};
    drawn(element, props, watch, async (here, refusal) => {
      forget();
      here.textContent = "";
      const field = refusal?.field && (props.fields?.[refusal.field] ?? refusal.field);
      const inputs = field ? await revealed(field) : [];
      if (!refusal || refusal !== props.value) return; // the last one was answered, or another one came meanwhile
      const block = inputs[0]?.closest(".block");
      block?.querySelector(".refusal")?.remove(); // another tab's, of the same setting
      const shown = block?.appendChild(make("p", { role: "alert", class: "refusal", id: `${field}-refusal` })) ?? here;
      shown.textContent = storyteller.refused(refusal.text, props.fields); // after it is there: screen readers announce a change
      shown.scrollIntoView({ block: "nearest" });
      const marks = { "aria-invalid": "true", "aria-describedby": shown.id };
      for (const input of inputs) for (const name in marks) input.setAttribute(name, marks[name]);
      forget = () => {
        if (block) shown.remove();
        for (const input of inputs) for (const name in marks) input.removeAttribute(name);
      };
    });
  };

  // On a phone the settings are above the tabs, but after them in the document.
  storyteller.enterSettings = (open) => {
    const settings = document.querySelector("#settings");
    settings.setAttribute("tabindex", "-1");
    if (open) settings.focus({ preventScroll: true });
  };

  const paragraphs = (texts) => texts.map((text) => make("p", {}, text));

  // What a reader must know of a text: the characters that were dropped, and what did not fit into the context.
  function notes({ dropped = [], kept }) {
    const key = kept === 0 ? "from_start" : "dropped";
    const lines = dropped.length ? [say(key, { characters: dropped.join(" ") })] : [];
    return kept ? [...lines, say("kept", { kept: number(kept) })] : lines;
  }

  // The figures of a story, with those of its earlier steps.
  function aboutLines(telling, earlier = []) {
    const seed = [...earlier, telling.settings].map(({ seed }) => seed).join(", ");
    if (telling.ahead) return [say("ahead", { count: number(telling.ahead) })];
    const lines = [say("figures", { written: number([...telling.text].length), speed: number(telling.speed), seed })];
    const { drafts, beams } = telling.settings;
    if (telling.running && drafts * beams > 1) lines.push(say("weighing", { drafts: number(drafts * beams) }));
    if (!telling.running && !telling.stopped) lines.push(say(telling.ended ? "ended" : "limit"));
    return lines;
  }

  // Adds to a text what is new of it, so that a selection in it stays.
  function grow(element, text) {
    const node = element.firstChild;
    const isPrefix = node?.data === element.textContent && text.startsWith(node.data); // a translator adds elements
    if (isPrefix) node.appendData(text.slice(node.data.length));
    else element.textContent = text;
  }

  views.story = (element, props, watch) => {
    const given = make("span", { class: "given" });
    const told = make("span", { class: "told" });
    const article = make("article", { "aria-label": say("story"), class: "story", dir: "auto" }, given, told);
    const about = make("div", { role: "group", "aria-label": say("about"), class: "about" });
    const above = make("div", { class: "about" });
    const status = make("div", { role: "status", class: "unseen" });
    element.firstElementChild.append(above, article, about, status);
    storyteller.announce = (text) => status.textContent === text || (status.textContent = text);
    let wasRunning = false;
    drawn(element, props, watch, (_, telling) => {
      storyteller.current = telling;
      article.classList.toggle("empty", !telling);
      article.lang = telling ? (telling.language ?? "en") : storyteller.language(); // older stories are in English
      article.setAttribute("aria-busy", String(Boolean(telling?.running)));
      const { drafts, beams } = telling?.settings ?? {};
      article.classList.toggle("weighing", Boolean(telling?.running) && !telling.ahead && drafts * beams > 1);
      grow(given, telling ? telling.prompt : "");
      grow(told, telling ? telling.text : say("no_story"));
      const earlier = telling?.steps?.slice(0, -1) ?? storyteller.continued;
      about.replaceChildren(...(telling ? paragraphs(aboutLines(telling, earlier)) : []));
      above.replaceChildren(...(telling ? paragraphs(notes(telling)) : []));
      const warning = telling?.kept === 0 ? above.textContent : "";
      above.classList.toggle("warning", warning !== "");
      for (const name of ["go_on", "edit", "copy", "download"]) {
        const button = document.querySelector(`#${name}`);
        if (button) button.disabled = !telling;
      }
      if (telling?.running) storyteller.announce(telling.ahead ? about.textContent : warning);
      else if (telling && wasRunning && !telling.stopped) storyteller.announce(say("finished"));
      wasRunning = Boolean(telling?.running);
    });
  };

  views.history = (element, props, watch, trigger) => {
    drawn(element, props, watch, (root, kept) => {
      const items = (kept ?? []).map((telling) => {
        const start = make("bdi", { lang: telling.language ?? "en" }, [...storyteller.whole(telling)].slice(0, 60).join(""));
        const { model, seed } = telling.settings;
        const about = say("history_item", { model, seed });
        const button = make("button", { type: "button", class: "link" }, start, about);
        button.addEventListener("click", () => {
          storyteller.chosen = telling;
          trigger("select");
        });
        return make("li", {}, button);
      });
      root.replaceChildren(make("p", { class: "note" }, say("history_info")), make("ul", { class: "plain" }, ...items));
    });
  };

  // A view that draws everything anew for each value; `parts` returns what it consists of.
  const redrawn = (parts) => (element, props, watch, trigger) =>
    drawn(element, props, watch, (root, value) => root.replaceChildren(...parts(value, trigger)));

  // `steps` are the values at which the shades begin, and `write` turns one into text.
  const SURPRISE = { legend: "legend", label: "character_label", steps: [0, 0.1, 0.5, 1, 2, 4] };
  SURPRISE.write = (bits) => number(bits, bits % 1 ? 1 : 0);
  const ATTENTION = { legend: "attention_legend", label: "attention_label", steps: [0, 0.01, 0.03, 0.1, 0.2, 0.4] };
  ATTENTION.write = percent;

  // A legend, and a text in six shades as a list, of which one character can be chosen. Each character has a value and a
  // share. Only one character is in the tab order; arrow keys move between them.
  // A vowel sign, or a letter of a ligature, is drawn together with the letter before it, and has no width of its own. Its
  // shade is in a strip below that letter, and another click on the letter chooses it.
  const isPart = (option) => option?.classList.contains("part");
  const graphemes = new Intl.Segmenter(undefined, { granularity: "grapheme" });
  function shaded(name, { legend, label, steps, write }, { text, language, values, shares, choose, chosen }) {
    const ranges = steps.map((step, i) => (i < 5 ? `${write(step)} – ${write(steps[i + 1])}` : `≥ ${write(step)}`));
    const shades = ranges.map((range, i) => make("li", { class: `shade-${i}` }, range));
    const option = (shown, title, shade) => {
      const attributes = { role: "option", "aria-selected": "false", "aria-label": title, title, tabindex: "-1" };
      return make("span", { ...attributes, class: `shade-${shade}` }, shown);
    };
    const starts = new Set(Array.from(graphemes.segment(text), ({ index }) => index));
    let [at, letter, strip] = [0];
    const options = [...text].map((each, i) => {
      const means = { character: visible(each), bits: number(values[i], 2), percent: percent(shares[i]) };
      const shade = steps.findLastIndex((step) => values[i] >= step);
      const made = option(each === "\n" ? "⏎\n" : each, say(label, means), shade);
      if (letter && !starts.has(at)) {
        strip.push(`var(--shade-${shade}, transparent)`);
        const bands = strip.map((colour, n) => `${colour} ${(100 * n) / strip.length}% ${(100 * (n + 1)) / strip.length}%`);
        letter.style.setProperty("--strip", `linear-gradient(to right, ${bands})`);
        made.classList.add("part");
      } else [letter, strip] = [made, []];
      at += each.length;
      return made;
    });
    if (choose) options.push(option("▁", say("what_next"), 0));
    options[0].tabIndex = 0;
    let here = 0;
    const go = (index, isChosen) => {
      options[here].tabIndex = -1;
      here = Math.min(Math.max(index, 0), options.length - 1);
      options[here].tabIndex = 0;
      options[here].focus(); // does nothing before the list is in the document
      if (!isChosen) return;
      list.querySelector("[aria-selected=true]")?.setAttribute("aria-selected", "false");
      options[here].setAttribute("aria-selected", "true");
      choose?.(here);
    };
    const attributes = { role: "listbox", "aria-label": name, class: "story colours", translate: "no", dir: "auto" };
    const list = make("div", { ...attributes, lang: language ?? "en" }, ...options);
    list.addEventListener("click", ({ target }) => {
      const index = options.indexOf(target.closest("[role=option]")); // a translator puts elements into it
      const isAgain = index <= here && options.slice(index + 1, here + 2).every(isPart) && isPart(options[here + 1]);
      const wasChosen = options[here].getAttribute("aria-selected") === "true";
      if (index >= 0) go(isAgain && wasChosen ? here + 1 : index, true);
    });
    const moves = { ArrowUp: -20, ArrowDown: 20, Home: -Infinity, End: Infinity };
    list.addEventListener("keydown", (event) => {
      moves.ArrowRight = getComputedStyle(list).direction === "rtl" ? -1 : 1;
      moves.ArrowLeft = -moves.ArrowRight;
      const isChosen = event.key === "Enter" || event.key === " ";
      if (storyteller.isTaken(event) || !(isChosen || event.key in moves)) return;
      event.preventDefault();
      go(here + (moves[event.key] ?? 0), isChosen);
    });
    if (options[chosen]) go(chosen, true);
    return [make("div", { class: "legend" }, make("span", {}, say(legend)), make("ul", {}, ...shades)), list];
  }

  views.colours = redrawn((scored, trigger) => {
    storyteller.lookAgain = () => trigger("select");
    storyteller.index = undefined;
    if (!scored) return [];
    const { characters: text, language, model, bits_per_character: bits, average_bits_per_character: average } = scored;
    const values = JSON.parse(scored.bits);
    const choose = (index) => {
      storyteller.index = index;
      trigger("select");
    };
    const shares = values.map((bits) => 2 ** -bits);
    const shown = { text, language, values, shares, choose, chosen: storyteller.reopened };
    const list = shaded(say("colours"), SURPRISE, shown);
    storyteller.reopened = undefined; // the next text is another one
    const means = { bits: number(bits, 2), average: number(average, 2), count: number(values.length), model };
    const status = make("p", { role: "status" }, say("bits", means));
    const hint = say("colours_hint") + (list[1].querySelector(".part") ? ` ${say("colours_parts")}` : "");
    return [status, ...paragraphs(notes(scored)), make("p", { class: "note" }, hint), ...list];
  });

  views.chances = redrawn((look) => {
    if (!look) return [];
    const bar = (share, kind) => {
      const stripe = make("span", { class: `bar ${kind}`, style: `--share: ${share}` });
      return make("td", {}, stripe, make("span", { class: "share" }, percent(share)));
    };
    const heads = ["character", "before_sampler", "after_sampler"].map((key) => make("th", { scope: "col" }, say(key)));
    const rows = look.rows.map(({ character, before, after }) => {
      const here = character === look.here ? [make("small", {}, ` (${say("written_here")})`)] : [];
      const name = make("th", { scope: "row" }, visible(character), ...here);
      return make("tr", { class: here.length ? "here" : "" }, name, bar(before, "before"), bar(after, "after"));
    });
    const caption = make("caption", {}, say("chances", { before: look.before }));
    const head = make("thead", {}, make("tr", {}, ...heads));
    const table = make("table", { class: "chances" }, caption, head, make("tbody", {}, ...rows));
    return [table, make("p", { class: "note" }, say("chances_hint"))];
  });

  views.attention = redrawn((attention) => {
    storyteller.attended = Boolean(attention);
    if (!attention) return [];
    const { text, language, weights, layer, head, opening, outside } = attention;
    const name = say("attention_title", { layer, head, before: storyteller.last(text, 20) });
    const lines = [say("attention_opening", { percent: percent(opening) })];
    if (outside) lines.push(say("attention_outside", { count: number(outside) }));
    const list = text ? shaded(name, ATTENTION, { text, language, values: weights, shares: weights }) : [];
    return [make("h2", {}, name), ...paragraphs(lines), ...list];
  });

  views.stories = (element, props, watch) => {
    const usual = props.models[0].evaluation_text; // losses on another text cannot be compared with those on this one
    const cards = props.models.map(({ name, parameters, nats_per_character: nats, evaluation_text: text }) => {
      const size = { count: number(parameters / 1e6, 2), choices: number(Math.exp(nats), 1) };
      const [given, told] = ["given", "told"].map((name) => make("span", { class: name }));
      const [above, about] = ["note", "about"].map((name) => make("div", { class: name }));
      const head = [make("h2", {}, name), make("p", { class: "note" }, say(text === usual ? "compared" : "compared_own", size))];
      const story = make("div", { class: "story", dir: "auto" }, given, told);
      const card = make("article", { "aria-label": name, class: "card" }, ...head, above, story, about);
      return { name, card, story, given, told, above, about };
    });
    const shared = make("div", { class: "about" });
    const group = make("div", { role: "group", "aria-label": say("compare_stories"), class: "cards" });
    group.append(...cards.map(({ card }) => card));
    element.firstElementChild.append(shared, group);
    drawn(element, props, watch, (_, value) => {
      storyteller.compared = value || []; // Gradio makes "" of null
      const tellings = storyteller.compared.filter(Boolean); // some may not have begun
      const lines = tellings.map((it) => [`${say("seed")}: ${it.settings.seed}`, ...notes(it)]);
      const common = (lines[0] ?? []).filter((line) => lines.every((all) => all.includes(line)));
      const ahead = tellings[0]?.ahead; // the comparison waits
      shared.replaceChildren(...paragraphs(ahead ? [say("ahead", { count: number(ahead) })] : common));
      for (const { name, card, story, given, told, above, about } of cards) {
        const i = tellings.findIndex(({ settings }) => settings.model === name);
        const { prompt = "", text = "", language = "en", running = false, written, speed, kept } = tellings[i] ?? {};
        story.lang = language;
        card.setAttribute("aria-busy", String(running));
        grow(given, prompt);
        grow(told, text);
        const figures = i < 0 || ahead ? [] : [say("compared_figures", { written: number(written), speed: number(speed) })];
        const own = (lines[i] ?? []).filter((line) => !common.includes(line));
        above.replaceChildren(...paragraphs(own));
        above.classList.toggle("warning", kept === 0);
        about.replaceChildren(...paragraphs(figures));
      }
    });
  };
})();
