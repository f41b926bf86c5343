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
      shown.textContent = storyteller.refused(refusal.text); // after it is there: screen readers announce a change
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

  // The figures of a story, with those of its earlier steps.
  function aboutLines(telling, earlier = []) {
    const seed = [...earlier, telling.settings].map(({ seed }) => seed).join(", ");
    const lines = [say("figures", { written: number(telling.text.length), speed: number(telling.speed), seed })];
    if (telling.ahead) lines.push(say("ahead", { count: number(telling.ahead) }));
    const { drafts, beams } = telling.settings;
    if (telling.running && drafts * beams > 1) lines.push(say("weighing", { drafts: number(drafts * beams) }));
    if (!telling.running && !telling.stopped) lines.push(say(telling.ended ? "ended" : "limit"));
    if (telling.dropped.length) lines.push(say("dropped", { characters: telling.dropped.join(" ") }));
    if (telling.kept != null) lines.push(say("kept", { kept: number(telling.kept) }));
    return lines;
  }

  views.story = (element, props, watch) => {
    const given = make("span", { class: "given" });
    const told = make("span", { class: "told" });
    const article = make("article", { "aria-label": say("story"), class: "story", lang: "en" }, given, told);
    const about = make("div", { role: "group", "aria-label": say("about"), class: "about" });
    const status = make("div", { role: "status", class: "unseen" });
    element.firstElementChild.append(article, about, status);
    storyteller.announce = (text) => (status.textContent = text);
    let wasRunning = false;
    drawn(element, props, watch, (_, telling) => {
      storyteller.current = telling;
      article.classList.toggle("empty", !telling);
      article.setAttribute("aria-busy", String(Boolean(telling?.running)));
      article.classList.toggle("weighing", Boolean(telling?.running) && telling.settings.drafts * telling.settings.beams > 1);
      given.textContent = telling ? telling.prompt : "";
      told.textContent = telling ? telling.text : say("no_story");
      const earlier = telling?.steps?.slice(0, -1) ?? storyteller.continued;
      about.replaceChildren(...(telling ? aboutLines(telling, earlier).map((line) => make("p", {}, line)) : []));
      for (const name of ["go_on", "edit", "copy", "download"]) {
        const button = document.querySelector(`#${name}`);
        if (button) button.disabled = !telling;
      }
      if (telling?.running) storyteller.announce("");
      else if (telling && wasRunning && !telling.stopped) storyteller.announce(say("finished"));
      wasRunning = Boolean(telling?.running);
    });
  };

  views.history = (element, props, watch, trigger) => {
    drawn(element, props, watch, (root, kept) => {
      const items = (kept ?? []).map((telling) => {
        const start = make("span", { lang: "en" }, storyteller.whole(telling).slice(0, 60));
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

  // Which of six shades a value gets: `steps` are the values at which the shades begin.
  function shade(value, steps) {
    return steps.findLastIndex((step) => value >= step);
  }

  // The legend of the shades; `write` turns a value into text.
  function legend(title, steps, write) {
    const shades = steps.map((step, i) => {
      const range = i + 1 < steps.length ? `${write(step)} – ${write(steps[i + 1])}` : `≥ ${write(step)}`;
      return make("li", { class: `shade-${i}` }, range);
    });
    return make("div", { class: "legend" }, make("span", {}, title), make("ul", {}, ...shades));
  }

  const BITS = [0, 0.1, 0.5, 1, 2, 4];
  const SHARES = [0, 0.01, 0.03, 0.1, 0.2, 0.4];

  // A list of characters, one of which can be chosen. Only one is in the tab order; arrow keys move between them.
  // `chosen` is the index of the one to begin with, if any.
  function characters(list, choose, chosen) {
    const move = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -20, ArrowDown: 20, Home: -Infinity, End: Infinity };
    const pick = (option) => {
      list.querySelector("[aria-selected=true]")?.setAttribute("aria-selected", "false");
      option.setAttribute("aria-selected", "true");
      focus(option);
      choose([...list.children].indexOf(option));
    };
    const focus = (option) => {
      list.querySelector("[tabindex='0']")?.setAttribute("tabindex", "-1");
      option.setAttribute("tabindex", "0");
      option.focus({ preventScroll: true });
      option.scrollIntoView({ block: "nearest" });
    };
    list.addEventListener("click", ({ target }) => {
      const option = target.closest("[role=option]"); // a translator puts elements into it
      if (option) pick(option);
    });
    list.addEventListener("keydown", (event) => {
      if (storyteller.isTaken(event)) return;
      const index = [...list.children].indexOf(document.activeElement);
      if (event.key === "Enter" || event.key === " ") pick(list.children[index]);
      else if (!(event.key in move)) return;
      else focus(list.children[Math.min(Math.max(index + move[event.key], 0), list.children.length - 1)]);
      event.preventDefault();
    });
    if (chosen in list.children) pick(list.children[chosen]); // not in the document yet, so it takes no focus
  }

  function characterList(label, options) {
    const attributes = { role: "listbox", "aria-label": label, class: "story colours", translate: "no" };
    return make("div", attributes, ...options);
  }

  function character(text, label, shade, index) {
    const shown = text === "\n" ? "⏎\n" : text;
    const attributes = { role: "option", "aria-selected": "false", "aria-label": label, title: label };
    return make("span", { ...attributes, class: `shade-${shade}`, tabindex: index ? "-1" : "0" }, shown);
  }

  views.colours = (element, props, watch, trigger) => {
    storyteller.lookAgain = () => trigger("select");
    drawn(element, props, watch, (root, scored) => {
      storyteller.index = undefined;
      if (!scored) return root.replaceChildren();
      const { reopened } = storyteller;
      storyteller.reopened = undefined; // the next text is another one
      const bits = JSON.parse(scored.bits);
      const options = [...scored.characters].map((each, i) => {
        const likely = { character: visible(each), bits: number(bits[i], 2), percent: percent(2 ** -bits[i]) };
        return character(each, say("character_label", likely), shade(bits[i], BITS), i);
      });
      options.push(character("▁", say("what_next"), 0, options.length));
      const list = characterList(say("colours"), options);
      characters(list, (index) => {
        storyteller.index = index;
        trigger("select");
      }, reopened);
      const line = say("bits", {
        bits: number(scored.bits_per_character, 2),
        count: number(bits.length),
        model: scored.model,
        average: number(scored.average_bits_per_character, 2),
      });
      root.replaceChildren(
        make("p", { role: "status", class: "bits" }, line),
        ...(scored.dropped.length ? [make("p", {}, say("dropped", { characters: scored.dropped.join(" ") }))] : []),
        legend(say("legend"), BITS, (bits) => number(bits, bits % 1 ? 1 : 0)),
        make("p", { class: "note" }, say("colours_hint")),
        list,
      );
    });
  };

  function bar(share, kind) {
    const stripe = make("span", { class: `bar ${kind}`, "aria-hidden": "true" });
    stripe.style.setProperty("--share", share);
    return make("td", {}, stripe, make("span", { class: "share" }, percent(share)));
  }

  views.chances = (element, props, watch) => {
    drawn(element, props, watch, (root, look) => {
      if (!look) return root.replaceChildren();
      const heads = ["character", "before_sampler", "after_sampler"].map((key) => make("th", { scope: "col" }, say(key)));
      const rows = look.rows.map(({ character, before, after }) => {
        const here = character === look.here ? [make("small", {}, ` (${say("written_here")})`)] : [];
        const head = make("th", { scope: "row" }, visible(character), ...here);
        return make("tr", here.length ? { class: "here" } : {}, head, bar(before, "before"), bar(after, "after"));
      });
      root.replaceChildren(
        make(
          "table",
          { class: "chances" },
          make("caption", {}, say("chances", { before: look.before })),
          make("thead", {}, make("tr", {}, ...heads)),
          make("tbody", {}, ...rows),
        ),
        make("p", { class: "note" }, say("chances_hint")),
      );
    });
  };

  views.attention = (element, props, watch) => {
    drawn(element, props, watch, (root, attention) => {
      storyteller.attended = Boolean(attention);
      if (!attention) return root.replaceChildren();
      const { text, weights, layer, head, opening, outside } = attention;
      const title = say("attention_title", { layer, head, before: text.slice(-20) });
      const options = [...text].map((each, i) => {
        const label = say("attention_label", { character: visible(each), percent: percent(weights[i]) });
        return character(each, label, shade(weights[i], SHARES), i);
      });
      const list = characterList(title, options);
      characters(list, () => {});
      root.replaceChildren(
        make("h2", {}, title),
        legend(say("attention_legend"), SHARES, percent),
        make("p", {}, say("attention_opening", { percent: percent(opening) })),
        ...(outside ? [make("p", {}, say("attention_outside", { count: number(outside) }))] : []),
        ...(text ? [list] : []),
      );
    });
  };

  views.stories = (element, props, watch) => {
    const cards = props.models.map(({ name, parameters, nats_per_character: nats, evaluation_text: text }) => {
      const given = make("span", { class: "given" });
      const told = make("span", { class: "told" });
      const about = make("div", { class: "about" });
      const loss = say(text ? "nats_on" : "nats", { nats: number(nats, 3), text });
      const sizes = [say("parameters", { count: number(parameters) }), loss];
      const body = make("div", { class: "story", lang: "en" }, given, told);
      const card = make("article", { "aria-label": name, class: "card" }, make("h2", {}, name));
      card.append(make("p", { class: "note" }, sizes.join(" · ")), about, body);
      return { name, card, given, told, about };
    });
    const group = make("div", { role: "group", "aria-label": say("compare_stories"), class: "cards" });
    group.append(...cards.map(({ card }) => card));
    element.firstElementChild.append(group);
    drawn(element, props, watch, (_, value) => {
      const tellings = (storyteller.compared = value || []); // Gradio makes "" of null
      cards.forEach(({ name, card, given, told, about }) => {
        const telling = tellings.find((it) => it?.settings.model === name);
        card.setAttribute("aria-busy", String(Boolean(telling?.running)));
        given.textContent = telling ? telling.prompt : "";
        told.textContent = telling ? telling.text : "";
        about.replaceChildren(...(telling ? aboutLines(telling).map((line) => make("p", {}, line)) : []));
      });
    });
  };
})();
