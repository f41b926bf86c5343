// How the models were trained: the figures and the curves of each run, all on one scale. Gradio's LinePlot does not do:
// it logs warnings, has no label, writes English numbers only, and its titles cannot be translated.
(() => {
  const { make, say, number } = storyteller;
  const [WIDTH, HEIGHT, LEFT] = [360, 190, 34];
  const MARKS = [0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7]; // on the axis, which is logarithmic

  // The curves [kind, points] of a run after its first twentieth, in which all of them fall steeply.
  const curves = ({ log, steps }) =>
    ["train", "val"]
      .map((kind) => [kind, log.filter((it) => it.step >= steps / 20 && it[kind] > 0).map((it) => [it.step, it[kind]])])
      .filter(([, points]) => points.length);

  function plot(run, marks) {
    const [low, high] = [marks[0], marks.at(-1)].map(Math.log);
    const x = (step) => LEFT + (step / run.steps) * (WIDTH - LEFT - 2);
    const y = (loss) => 8 + ((high - Math.log(loss)) / (high - low)) * (HEIGHT - 36);
    const svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", class: "curves" });
    const write = (x, y, text) => svg.append(make("text", { x, y, "text-anchor": "end" }, text));
    for (const mark of marks) {
      svg.append(make("path", { d: `M${LEFT} ${y(mark)}H${WIDTH}`, class: "grid" }));
      write(LEFT - 6, y(mark) + 4, number(mark, 1));
    }
    write(LEFT + 8, HEIGHT - 6, number(0));
    write(WIDTH, HEIGHT - 6, say("steps", { count: number(run.steps) }));
    const ends = curves(run).map(([kind, points]) => {
      const d = points.map(([step, loss]) => `${x(step).toFixed(1)} ${y(loss).toFixed(1)}`);
      svg.append(make("path", { d: `M${d.join("L")}`, class: `curve ${kind}` }));
      return `${say(kind)} ${number(points[0][1], 2)} → ${number(points.at(-1)[1], 2)}`;
    });
    svg.setAttribute("aria-label", `${say("curves")}, ${run.name}: ${ends.join(", ")}`);
    return svg;
  }

  function about({ parameters, nats_per_character: nats, evaluated_on: text, data, seconds, card, ...run }) {
    const seen = run.characters_seen;
    const facts = [say("parameters", { count: number(parameters) })];
    facts.push(say(text ? "nats_on" : "nats", { nats: number(nats, 3), text }));
    if (data?.name) facts.push(say("learned_from", { text: data.name }));
    if (seen && seconds) facts.push(say("seen", { count: number(seen), minutes: number(seconds / 60) }));
    const link = card ? [" · ", make("a", { href: card, target: "_blank", rel: "noopener" }, say("card"))] : [];
    return make("p", { class: "note" }, facts.join(" · "), ...link);
  }

  storyteller.views.runs = (element, { runs }) => {
    const losses = runs.flatMap(curves).flatMap(([, points]) => points.map(([, loss]) => loss)).sort((a, b) => a - b);
    const from = MARKS.findLastIndex((mark) => mark <= losses[0]);
    const to = MARKS.findIndex((mark) => mark > losses.at(-1));
    const marks = MARKS.slice(Math.max(from, 0), to < 0 ? undefined : to + 1);
    const figures = runs.map((run) =>
      make("figure", {}, make("figcaption", {}, make("h2", {}, run.name), about(run)), plot(run, marks)));
    const keys = ["train", "val"].map((kind) => make("span", { class: `key ${kind}` }, say(kind)));
    const legend = make("p", { class: "legend" }, `${say("curves")}:`, ...keys);
    element.firstElementChild.append(legend, make("div", { class: "figures" }, ...figures));
  };
})();
