// How the models were trained: curves, figures, commands.
(() => {
  const { views, say, make, number, drawn } = storyteller;
  const LEFT = 56;

  // Round numbers from low to high; on a logarithmic scale, round multiples of powers of ten.
  function ticks(low, high, log) {
    if (log) {
      const found = [];
      const within = (factors) => {
        const found = [];
        for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
          for (const factor of factors) found.push(factor * 10 ** power);
        return found.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
      };
      const few = within([1, 2, 5]);
      return few.length > 2 ? few : within([1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8]);
    }
    const rough = (high - low) / 4;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= rough);
    const found = [];
    for (let i = Math.ceil(low / step); i * step <= high * 1.001; i++) found.push(i * step);
    return found;
  }

  const compact = { maximumSignificantDigits: 3, notation: "compact" };
  const short = (value) => value.toLocaleString(storyteller.language(), compact);

  // One panel of the given width: lines of {kind, points: [[x, y], ...]} over steps 0 to last.
  function panel(width, top, height, last, lines, log, title) {
    const values = lines.flatMap(({ points }) => points.map(([, y]) => y));
    const low = log ? Math.min(...values) : 0;
    const high = Math.max(...values);
    const at = (value) => (log ? Math.log(value) : value);
    const x = (step) => LEFT + (step / last) * (width - LEFT - 12);
    const y = (value) => top + height - ((at(value) - at(low)) / (at(high) - at(low) || 1)) * height;
    const group = make("g", {}, make("text", { x: 0, y: top - 8 }, title));
    for (const tick of ticks(low, high, log)) {
      group.append(make("line", { x1: LEFT, x2: width - 12, y1: y(tick), y2: y(tick), class: "grid" }));
      group.append(make("text", { x: LEFT - 8, y: y(tick) + 4, "text-anchor": "end" }, short(tick)));
    }
    for (const { kind, points } of lines) {
      const path = points.map(([step, value], i) => `${i ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`);
      group.append(make("path", { d: path.join(""), class: `curve ${kind}` }));
    }
    return { group, x };
  }

  function line(log, kind) {
    const points = log.filter((entry) => entry[kind] > 0).map((entry) => [entry.step, entry[kind]]);
    return { kind, points };
  }

  function figure({ name, log }, scale, width) {
    const losses = [line(log, "train"), line(log, "val")].filter(({ points }) => points.length > 1);
    if (!losses.length) return make("figure", {}, make("figcaption", {}, name));
    const last = log[log.length - 1].step;
    const svg = make("svg", { viewBox: `0 0 ${width} 330`, role: "img", class: "curves" });
    const { group, x } = panel(width, 24, 180, last, losses, scale === "log", say("loss"));
    svg.append(group);
    const rates = line(log, "lr");
    if (rates.points.length > 1) svg.append(panel(width, 240, 50, last, [rates], false, say("rate")).group);
    for (const tick of ticks(0, last, false))
      svg.append(make("text", { x: x(tick), y: 310, "text-anchor": "middle" }, short(tick)));
    svg.append(make("text", { x: width - 12, y: 326, "text-anchor": "end" }, say("step")));
    const ends = losses.map(({ kind, points }) => {
      const [first, final] = [points[0][1], points[points.length - 1][1]];
      return `${say(kind)} ${number(first, 2)} → ${number(final, 2)}`;
    });
    svg.setAttribute("aria-label", `${say("curves")}, ${name}: ${ends.join(", ")}`);
    const keys = losses.map(({ kind }) => make("span", { class: `key ${kind}` }, say(kind)));
    return make("figure", {}, make("figcaption", {}, make("strong", {}, name), ...keys), svg);
  }


  const COLUMNS = [
    ["table_parameters", (it) => number(it.parameters)],
    ["table_nats", (it) => number(it.nats_per_character, 3)],
    ["table_bits", (it) => number(it.nats_per_character / Math.log(2), 3)],
    ["table_text", (it) => it.evaluation?.data],
    ["table_steps", (it) => number(it.steps)],
    ["table_seen", (it) => it.characters_seen && number(it.characters_seen)],
    ["table_minutes", (it) => it.seconds && number(it.seconds / 60)],
    ["table_device", (it) => it.device],
    ["table_data", (it) => it.data?.name],
  ];

  // A command in a box that scrolls on its own, on a phone too.
  const command = (text, label) => make("pre", { tabindex: "0", "aria-label": label, role: "region" }, text);

  function tableAndCommands(runs) {
    const head = ["table_model", ...COLUMNS.map(([key]) => key)].map((key) => make("th", { scope: "col" }, say(key)));
    const rows = runs.map(({ name, metrics }) => {
      const cells = COLUMNS.map(([, write]) => make("td", {}, String(write(metrics) ?? "–")));
      return make("tr", {}, make("th", { scope: "row" }, name), ...cells);
    });
    const table = make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
    const commands = runs
      .filter(({ metrics }) => metrics.command)
      .flatMap(({ name, metrics }) => [make("h3", {}, name), command(metrics.command, name)]);
    return [
      make("h2", {}, say("table")),
      make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": say("table") }, table),
      ...(commands.length ? [make("h2", {}, say("commands")), ...commands] : []),
      make("h2", {}, say("retrain")),
      make("p", {}, say("retrain_text")),
      command('make train ARGS="--preset pocket"', say("retrain")),
      make("p", {}, say("deploy_text")),
      command(".venv/bin/python -m train.push YOU/YOUR-SPACE", say("deploy_text")),
      make("h2", {}, say("data")),
      make("p", {}, say("data_text")),
    ];
  }

  views.training = (element, props, watch) => {
    const figures = make("div", { class: "figures" });
    element.firstElementChild.append(figures, ...tableAndCommands(props.runs));
    drawn(element, props, watch, (root, scale) => {
      const width = Math.min(Math.max(root.clientWidth, 280), 560); // so that letters are not scaled down on a phone
      figures.replaceChildren(...props.runs.map((run) => figure(run, scale, width)));
    });
  };
})();
