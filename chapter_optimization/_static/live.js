/* The live figures. The rules that run here are rendered from the spec; they, the data and the words are in
   live-data.js, which live.py writes. Each figure is drawn anew, as a whole, whenever one of its controls moves. */

(() => {
  const { words, names, rules, states, constants, settings, curves, colors } = LIVE;

  /* What is drawn */

  function el(tag, attributes = {}, ...children) {
    const drawn = ["svg", "g", "path", "line", "circle", "text"].includes(tag);
    const node = drawn ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  /* An object of the same keys. */
  const pick = (object, value) => Object.fromEntries(Object.keys(object).map((key) => [key, value(key)]));
  const fill = (text, ...values) => text.replace(/\{(\d)\}/g, (_, i) => values[i]);
  const raised = (k) => String(k).replace(/./g, (c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c] ?? "⁻");

  /* A number for readers: 0.2437, 1.1 × 10⁻¹⁶. */
  function show(x, digits = 4) {
    if (!Number.isFinite(x)) return Number.isNaN(x) ? "NaN" : x > 0 ? "∞" : "−∞";
    if (x === 0 || (Math.abs(x) >= 1e-4 && Math.abs(x) < 1e6)) {
      const rounded = Number(x.toPrecision(Math.abs(x) < 1e4 ? digits : 6));
      return rounded.toLocaleString("en", { maximumFractionDigits: 8 }).replace("-", "−");
    }
    const [mantissa, power] = x.toExponential(1).split("e");
    const factor = Number(mantissa) === 1 ? "" : `${Number(mantissa)} × `.replace("-", "−");
    return `${factor}10${raised(Number(power))}`;
  }

  function scale([a, b], log, from, to) {
    const f = log ? (x) => Math.log10(Math.max(x, a)) : (x) => x;
    return (x) => from + ((f(x) - f(a)) / (f(b) - f(a))) * (to - from);
  }

  function ticks([a, b], log, number) {
    let step = 1;
    let [from, to] = [a, b];
    if (log) {
      [from, to] = [Math.log10(a), Math.log10(b)];
      step = Math.ceil((to - from) / number);
    } else {
      const power = 10 ** Math.floor(Math.log10((b - a) / number));
      step = power * [1, 2, 5, 10].find((m) => m * power >= (b - a) / number);
    }
    const made = [];
    for (let k = Math.ceil(from / step - 1e-9); k <= to / step + 1e-9; k += 1) {
      made.push(log ? 10 ** (k * step) : Number((k * step).toPrecision(12)));
    }
    return made;
  }

  const named = (at, log) => (log && at !== 1 ? `10${raised(Math.round(Math.log10(at)))}` : show(at));

  /* The least and the largest finite number, with some room. */
  function around(values, room = 0.05) {
    const finite = values.filter(Number.isFinite);
    if (!finite.length) return [0, 1];
    const [a, b] = finite.reduce(([a, b], x) => [Math.min(a, x), Math.max(b, x)], [Infinity, -Infinity]);
    const more = (b - a) * room || Math.abs(a) * room || 1;
    return [a - more, b + more];
  }

  /* The path of some points; it is broken where one is no number. */
  function trace(points, x, y) {
    const near = (at) => Math.max(-1e4, Math.min(1e4, at)).toFixed(1);
    let command = "M";
    return points
      .map(([a, b]) => {
        const finite = Number.isFinite(a) && Number.isFinite(b);
        const made = finite ? `${command}${near(x(a))} ${near(y(b))}` : "";
        command = finite ? "L" : "M";
        return made;
      })
      .join("");
  }

  const stroke = (color) => `var(--live-${color})`;

  const pen = ({ color, width = 2, dash = "" }) => ({
    style: `stroke:${stroke(color)}`, "stroke-width": width, "stroke-dasharray": dash,
  });

  function legend(line) {
    const sample = el("line", { x1: 0, x2: 24, y1: 4, y2: 4, ...pen(line) });
    return el("span", {}, el("svg", { width: 24, height: 8, "aria-hidden": true }, sample), line.label);
  }

  /* A place for curves over axes; it returns what draws them. */
  function plot(parent, title, xlabel, { xlog = false, ylog = false } = {}) {
    const svg = el("svg", { role: "img", class: "live-plot" });
    const key = el("div", { class: "live-legend" });
    parent.append(el("div", {}, el("div", { class: "live-title" }, title), svg, key));
    return (xs, ys, lines) => {
      const width = Math.max(svg.clientWidth, 200);
      const [left, right, top, bottom] = [44, width - 22, 8, 196];
      const [x, y] = [scale(xs, xlog, left, right), scale(ys, ylog, bottom, top)];
      const axes = el("g", { class: "live-axes" });
      for (const at of ticks(ys, ylog, 5)) {
        axes.append(el("line", { x1: left, x2: right, y1: y(at), y2: y(at) }));
        axes.append(el("text", { x: left - 6, y: y(at) + 4, "text-anchor": "end" }, named(at, ylog)));
      }
      for (const at of ticks(xs, xlog, width / 90)) {
        axes.append(el("line", { x1: x(at), x2: x(at), y1: bottom, y2: bottom + 4 }));
        axes.append(el("text", { x: x(at), y: bottom + 18, "text-anchor": "middle" }, named(at, xlog)));
      }
      axes.append(el("text", { x: right, y: bottom + 34, "text-anchor": "end" }, xlabel));
      const [w, h] = [right - left, bottom - top];
      const area = el("svg", { x: left, y: top, width: w, height: h, viewBox: `${left} ${top} ${w} ${h}` });
      area.append(...lines.map((line) => el("path", { d: trace(line.points, x, y), ...pen(line) })));
      svg.setAttribute("aria-label", `${title}: ${lines.map(({ label }) => label).join(", ")}`);
      svg.replaceChildren(axes, area);
      key.replaceChildren(...lines.map(legend));
    };
  }

  /* Controls: each returns its input; what it stands for is `value(input)`. */

  const RATES = [-4, -3, -2, -1, 0].flatMap((k) => [1, 1.5, 2, 3, 4, 5, 7].map((m) => Number(`${m}e${k}`)));
  const DECAYS = [0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9995, 0.9999];
  const SMALL = [-10, -9, -8, -7, -6, -5, -4, -3, -2, -1, 0].map((k) => Number(`1e${k}`));
  const range = (name) => ({ lr: RATES, eps: SMALL })[name] ?? DECAYS;

  let made = 0;
  function control(label, input, ...more) {
    made += 1;
    input.id = `live-${made}`;
    return el("div", { class: "live-control" }, el("span", {}, el("label", { for: input.id }, label), ...more), input);
  }

  function slider(parent, label, values, start) {
    const input = el("input", { type: "range", min: 0, max: values.length - 1, step: 1, value: values.indexOf(start) });
    const output = el("output");
    input.live = () => values[input.valueAsNumber];
    input.show = () => {
      output.value = show(input.live());
      input.setAttribute("aria-valuetext", output.value);
    };
    input.addEventListener("input", input.show);
    input.put = (x) => {
      input.value = values.indexOf(x);
      input.show();
    };
    input.show();
    parent.append(control(label, input, output));
    return input;
  }

  function choice(parent, label, options) {
    const input = el("select", {}, ...Object.entries(options).map(([value, text]) => el("option", { value }, text)));
    parent.append(control(label, input));
    return input;
  }

  function toggle(parent, label, checked = false) {
    const input = el("input", { type: "checkbox", ...(checked ? { checked } : {}) });
    parent.append(el("label", { class: "live-toggle" }, input, label));
    return input;
  }

  function button(parent, label, press) {
    const made = el("button", { type: "button" }, label);
    made.addEventListener("click", press);
    parent.append(made);
    return made;
  }

  /* Sliders for the constants of a rule, which change with it: `give()` returns their values. */
  function constantsOf(parent, given) {
    let inputs = {};
    const box = el("div", { class: "live-controls" });
    parent.append(box);
    return {
      put(name) {
        box.replaceChildren();
        const all = { ...constants[name], ...given[name] };
        inputs = pick(all, (key) => slider(box, words[key], range(key), all[key]));
      },
      give: () => pick(inputs, (key) => inputs[key].live()),
    };
  }

  /* A figure: `build` puts its controls and plots into a box and returns what draws it. */
  function figure(name, build) {
    const place = document.querySelector(`figure.live-${name}`);
    if (!place) return;
    const box = el("div", { class: "live-box" });
    place.insertBefore(box, place.querySelector("figcaption"));
    place.classList.add("live-on");
    const drawn = build(box, (class_) => box.appendChild(el("div", { class: class_ })));
    const draw = () => box.clientWidth && drawn();
    box.addEventListener("input", draw);
    new ResizeObserver(draw).observe(box);
  }

  const note = (box) => box.appendChild(el("p", { class: "live-note", role: "status" }));

  /* What is computed */

  /* The rows [p, ...state] of some numbers, one step on. */
  function advance(name, rows, grads, t, given) {
    return rows.map((row, i) => rules[name](row[0], grads[i], ...row.slice(1), t, given));
  }

  const first = (name, ps) => ps.map((p) => [p, ...states[name].map(() => 0)]);

  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  const table = new Float64Array(bytes(LIVE.rows)); // five features and the label of each of 1500 rows
  const order = new Uint16Array(bytes(LIVE.order)); // the rows in the order of training, in batches of ten

  /* The loss curve of the section's linear regression; `zero` adds a feature that is 0 in every row. */
  function train(name, given, zero = false) {
    const inputs = (i) => [...table.subarray(6 * i, 6 * i + 5), 1, ...(zero ? [0] : [])];
    const error = (rows, x, i) => x.reduce((sum, xj, j) => sum + xj * rows[j][0], 0) - table[6 * i + 5];
    const losses = [];
    let rows = first(name, [...LIVE.start, ...(zero ? [0] : [])]);
    for (let seen = 0; seen < order.length; ) {
      const grads = rows.map(() => 0);
      for (const i of order.subarray(seen, seen + 10)) {
        const x = inputs(i);
        const off = error(rows, x, i);
        x.forEach((xj, j) => (grads[j] += (xj * off) / 10));
      }
      rows = advance(name, rows, grads, seen / 10 + 1, given);
      seen += 10;
      if (seen % 200 === 0) {
        let sum = 0;
        for (let i = 0; i < 1500; i += 1) sum += error(rows, inputs(i), i) ** 2;
        losses.push(sum / 1500 / 2);
      }
    }
    return losses;
  }

  const overEpochs = (losses) => losses.map((loss, i) => [((i + 1) * 200) / 1500, loss]);
  const apart = (one, other) => one.map((x, i) => Math.abs(x - other[i]));
  /* The largest; NaN if one of them is. */
  const most = (values) => Math.max(...values);

  /* The figures */

  figure("first-steps", (box, part) => {
    const controls = part("live-controls");
    const g = slider(controls, words.steady, [-8, -7, -6, -5, -4, -2, 0, 2].map((k) => Number(`1e${k}`)), 1);
    const betas = ["beta1", "beta2"].map((key) => slider(controls, words[key], DECAYS, constants.adam[key]));
    const curve = plot(part("live-plots"), words.length, "t", { xlog: true });
    const text = note(box);
    return () => {
      const given = { lr: 1, beta1: betas[0].live(), beta2: betas[1].live() };
      const [right, wrong] = ["adam", "adam_uncorrected"].map((name) => {
        let rows = first(name, [0]);
        return Array.from({ length: 3000 }, (_, i) => {
          const before = rows[0][0];
          rows = advance(name, rows, [g.live()], i + 1, given);
          return [i + 1, before - rows[0][0]];
        });
      });
      const longest = wrong.reduce((one, other) => (other[1] > one[1] ? other : one));
      curve([1, 3000], [0, Math.max(1.2, longest[1] * 1.1)], [
        { points: right, color: "blue", label: words.with, width: 3 },
        { points: wrong, color: "vermillion", label: words.without },
      ]);
      text.textContent = fill(
        words["first-steps-note"], show(right[0][1], 3), show(wrong[0][1], 3), show(longest[1], 3), longest[0],
      );
    };
  });

  figure("run", (box, part) => {
    const controls = part("live-controls");
    const rule = choice(controls, words.optimizer, pick(settings, (name) => names[name]));
    const given = constantsOf(box, settings);
    const reset = () => given.put(rule.value);
    button(controls, words.reset, () => {
      reset();
      draw();
    });
    rule.addEventListener("input", reset);
    reset();
    const plots = part("live-plots");
    const upper = plot(plots, words.loss, words.epoch);
    const lower = plot(plots, words.distance, words.epoch, { ylog: true });
    const text = note(box);
    function draw() {
      const reference = curves.reference[rule.value];
      const losses = train(rule.value, given.give());
      const distances = apart(losses, reference);
      const measured = Object.keys(curves).filter((tab) => curves[tab][rule.value] && tab !== "reference");
      const widths = { mxnet: 7, pytorch: 4, tensorflow: 2, jax: 1 };
      const lines = (of) => [
        ...measured.map((tab) => ({
          points: overEpochs(of(curves[tab][rule.value])), color: colors[tab], width: widths[tab], label: names[tab],
        })),
        { points: overEpochs(of(losses)), color: "text", dash: "2 4", width: 3, label: words.here },
      ];
      const near = lines((x) => x);
      near.unshift({ points: overEpochs(reference), color: "muted", width: 10, label: words.reference });
      upper([0, 2], around([...reference, ...losses.filter((x) => x < 0.7)]), near);
      lower([0, 2], [1e-17, 10], lines((x) => apart(x, reference)).map((line) => ({ ...line, width: 2, dash: "" })));
      text.textContent = fill(words["run-note"], show(losses.at(-1)), show(most(distances), 2));
      text.dataset.distance = most(distances);
    }
    return draw;
  });

  figure("slips", (box, part) => {
    const zero = toggle(box, words.zero);
    const plots = part("live-plots");
    const labels = { bracket: words.bracket, time: words.advanced, eps: words.other_eps };
    const columns = Object.entries({ adam: ["bracket", "time"], yogi: ["bracket", "eps"] }).map(([name, slips]) => {
      const column = plots.appendChild(el("fieldset", {}, el("legend", {}, names[name])));
      const inputs = slips.map((slip) => [slip, toggle(column, labels[slip], slip === "bracket")]);
      const upper = plot(column, words.loss, words.epoch);
      const lower = plot(column, words.apart, words.epoch, { ylog: true });
      return { name, inputs, upper, lower };
    });
    const text = note(box);
    return () => {
      text.textContent = "";
      for (const { name, inputs, upper, lower } of columns) {
        const slips = inputs.filter(([, input]) => input.checked).map(([slip]) => slip);
        const both = [name, [name, ...slips].join("_")];
        const [right, wrong] = both.map((rule) => train(rule, settings[name], zero.checked));
        const distances = apart(right, wrong);
        upper([0, 2], [0.22, 0.4], [
          { points: overEpochs(right), color: "sky", width: 6, label: words.right },
          { points: overEpochs(wrong), color: "vermillion", dash: "5 3", label: words.wrong },
        ]);
        lower([0, 2], [1e-8, 1], [
          { points: overEpochs(distances), color: "vermillion", label: words.wrong },
          { points: [[0, 1e-6], [2, 1e-6]], color: "text", dash: "2 3", width: 1, label: words.allowed },
        ]);
        const last = [wrong, right].map((losses) => show(losses.at(-1)));
        text.textContent += `${fill(words["slips-note"], names[name], ...last, show(most(distances), 2))}\n`;
      }
    };
  });

  figure("leaves", (box, part) => {
    const STEPS = 30000;
    const example = choice(part("live-controls"), words.example, { steep: words.steep, reddi: words.reddi });
    const groups = { steep: part("live-controls"), reddi: part("live-controls") };
    const N = slider(groups.steep, words.period, [3, 10, 30, 100, 200, 300, 400], 300);
    const G = slider(groups.steep, words.slope, [100, 200, 280, 320, 350, 400, 450, 500, 600, 800, 1500, 5000], 450);
    const rate = slider(groups.steep, words.lr, RATES, 0.1);
    const beta2 = slider(groups.steep, words.beta2, DECAYS, 0.99);
    const C = slider(groups.reddi, words.C, [2.1, 2.2, 2.3, 2.4, 2.45, 2.5, 2.6, 2.8, 3, 4, 5, 10], 2.4);
    const plots = part("live-plots");
    const [where, rates] = [plot(plots, words.x, "t"), plot(plots, words.rate, "t", { ylog: true })];
    const text = note(box);
    const made = {
      steep() {
        const [n, steep] = [N.live(), G.live()];
        return {
          period: n, start: -1, best: n - 1 < steep ? (n - 1) / Math.sqrt(steep ** 2 - (n - 1) ** 2) : NaN,
          slope: (x, t) => (t % n === 1 ? (steep * x) / Math.sqrt(1 + x * x) : -1),
          given: () => ({ lr: rate.live(), beta2: beta2.live() }), within: (x) => x,
        };
      },
      reddi() {
        const c = C.live();
        return {
          period: 3, start: 0, best: -1, slope: (x, t) => (t % 3 === 1 ? c : -1),
          given: (t) => ({ lr: 0.5 / Math.sqrt(t), beta1: 0, beta2: 1 / (1 + c * c) }),
          within: (x) => Math.min(Math.max(x, -1), 1),
        };
      },
    };
    return () => {
      for (const [name, group] of Object.entries(groups)) group.hidden = name !== example.value;
      const { period, start, best, slope, given, within } = made[example.value]();
      const shown = Math.max(5 * period, 30);
      const every = period * Math.ceil(STEPS / period / 300);
      const ways = ["adam", "yogi"].map((name) => {
        const way = { name, at: [[0, start]], rates: [] };
        let rows = first(name, [start]);
        for (let t = 1; t <= STEPS; t += 1) {
          const now = given(t);
          rows = advance(name, rows, [slope(rows[0][0], t)], t, now);
          rows[0][0] = within(rows[0][0]);
          if (t % every === 0) way.at.push([t, rows[0][0]]);
          if (t > STEPS - shown) {
            way.rates.push([t, now.lr / (Math.sqrt(rows[0][2] / (1 - now.beta2 ** t)) + constants[name].eps)]);
          }
        }
        return { ...way, last: rows[0][0] };
      });
      const lines = (key) => ways.map((way) => ({ points: way[key], color: colors[way.name], label: names[way.name] }));
      const level = { points: [[0, best], [STEPS, best]], color: "text", dash: "2 3", width: 1, label: words.best };
      where([0, STEPS], around(ways.flatMap(({ at }) => at.map(([, x]) => x)).concat(best)), [...lines("at"), level]);
      const all = ways.flatMap((way) => way.rates.map(([, y]) => y));
      rates([STEPS - shown, STEPS], [Math.min(...all) / 1.5, Math.max(...all) * 1.5], lines("rates"));
      const there = Number.isNaN(best) ? words["no-best"] : show(best);
      text.textContent = fill(words["leaves-note"], there, show(STEPS), ...ways.map(({ last }) => show(last)));
    };
  });

  figure("race", (box, part) => {
    const STEPS = 200;
    const bowl = {
      f: (x, y) => 0.1 * x * x + 2 * y * y, floor: 0, slope: (x, y) => [0.2 * x, 4 * y],
      x: [-6, 3], y: [-3, 3], start: [-5, -2], noise: 0,
    };
    const SURFACES = {
      bowl,
      valley: {
        f: (x, y) => (1 - x) ** 2 / 2 + 5 * (y - x * x) ** 2, floor: 0,
        slope: (x, y) => [x - 1 - 20 * x * (y - x * x), 10 * (y - x * x)],
        x: [-2, 2], y: [-0.7, 2.3], start: [-1.4, 1.7], noise: 0,
      },
      saddle: {
        f: (x, y) => (x * x) / 2 - (y * y) / 2 + y ** 4 / 8, floor: -0.5, slope: (x, y) => [x, y ** 3 / 2 - y],
        x: [-4, 2], y: [-2, 2], start: [-3.5, 0.01], noise: 0,
      },
      noisy: { ...bowl, noise: 2 },
    };
    const shown = ["sgd", "sgd_momentum", "rmsprop", "adam", "yogi"];
    const controls = part("live-controls");
    const surface = choice(controls, words.surface, pick(SURFACES, (name) => words[name]));
    const noise = slider(controls, words.noise, [0, 0.5, 1, 2, 3, 5, 10], 0);
    const shared = { beta1: 0.9, beta2: 0.999, momentum: 0.5, gamma: 0.9, rho: 0.9 };

    /* The surface in two layers: its contours, drawn once, and the paths over them. */
    const stage = part("live-stage");
    const canvas = stage.appendChild(el("canvas", { "aria-hidden": true }));
    const svg = stage.appendChild(el("svg", { role: "group", "aria-label": words.contours }));
    const paths = svg.appendChild(el("g"));
    const handle = el("div", { class: "live-handle", tabindex: 0, role: "slider", "aria-label": words.start });
    stage.append(handle);
    const player = part("live-controls live-player");
    const time = slider(player, words.time, Array.from({ length: STEPS + 1 }, (_, t) => t), 60);
    const go = (t) => {
      time.put(t);
      draw();
    };
    let playing = 0;
    const stop = () => {
      clearInterval(playing);
      playing = 0;
      play.textContent = words.play;
    };
    const play = button(player, words.play, () => {
      if (playing) return stop();
      if (matchMedia("(prefers-reduced-motion: reduce)").matches) return go(STEPS);
      if (time.live() === STEPS) go(0);
      play.textContent = words.pause;
      playing = setInterval(() => (time.live() < STEPS ? go(time.live() + 1) : stop()), 50);
    });
    button(player, words.step, () => go(Math.min(time.live() + 1, STEPS)));
    button(player, words.reset, () => {
      stop();
      settle();
      for (const key of Object.keys(shared)) inputs[key].put(shared[key]);
      correction.checked = true;
      go(0);
    });
    const text = part("live-note");

    const columns = { optimizer: 0, lr: 0, height: 0, moved: 0, states: 0 };
    const head = Object.keys(columns).map((key) => el("th", { scope: "col" }, words[key]));
    const body = el("tbody");
    part("live-table").append(el("table", {}, el("thead", {}, el("tr", {}, ...head)), body));
    const below = part("live-controls");
    const inputs = pick(shared, (key) => slider(below, words[key], DECAYS, shared[key]));
    const correction = toggle(below, words.correction, true);
    const runners = Object.keys(settings).map((name) => {
      const cells = pick(columns, (key) => el("td", { class: `live-${key}`, "data-label": words[key] }));
      body.append(el("tr", {}, ...Object.values(cells)));
      const on = toggle(cells.optimizer, names[name], shown.includes(name));
      on.after(el("span", { class: "live-swatch", style: `background:${stroke(colors[name])}` }));
      const lr = "lr" in constants[name] ? slider(cells.lr, "η", RATES, 0.1) : null;
      lr?.setAttribute("aria-label", `${names[name]}: ${words.lr}`);
      return { name, on, lr, cells };
    });

    let start = [0, 0];
    /* Noise that is the same in every run: two numbers a step, from a normal distribution. */
    let seed = 1;
    const uniform = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
    const normal = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
    const shaken = Array.from({ length: STEPS }, () => [normal(), normal()]);

    function settle() {
      const chosen = SURFACES[surface.value];
      start = chosen.start;
      noise.put(chosen.noise);
      for (const { name, lr } of runners) lr?.put(LIVE.rates[surface.value][name]);
    }
    surface.addEventListener("input", settle);
    settle();

    /* Contours at equal steps of log(1 + height), each pixel shaded by how near it is to one. */
    let painted = "";
    function paint({ f, floor }, width, height) {
      const dots = Math.min(devicePixelRatio || 1, 2);
      const wanted = [surface.value, width, dots].join();
      if (wanted === painted) return;
      painted = wanted;
      [canvas.width, canvas.height] = [width * dots, height * dots].map(Math.round);
      const level = (i, j) => 2.5 * Math.log2(1 + 4 * (f(toNumbers[0](i / dots), toNumbers[1](j / dots)) - floor));
      const context = canvas.getContext("2d");
      const image = context.createImageData(canvas.width, canvas.height);
      for (let j = 0, k = 3; j < canvas.height; j += 1) {
        for (let i = 0; i < canvas.width; i += 1, k += 4) {
          const here = level(i, j);
          const slope = Math.hypot(level(i + 1, j) - here, level(i, j + 1) - here);
          const off = Math.abs(here - Math.round(here)) / (slope + 1e-9) / dots;
          image.data[k] = Math.min(60, 3 * Math.floor(here + 0.5)) * 0.7 + 60 * Math.max(0, 1 - off);
        }
      }
      context.putImageData(image, 0, 0);
    }

    function race({ name, lr }, { slope }) {
      const rule = correction.checked || !(`${name}_uncorrected` in rules) ? name : `${name}_uncorrected`;
      const given = { ...pick(inputs, (key) => inputs[key].live()), ...(lr ? { lr: lr.live() } : {}) };
      const way = [first(rule, start)];
      for (let t = 1; t <= time.live(); t += 1) {
        const rows = way.at(-1);
        const grads = slope(rows[0][0], rows[1][0]).map((g, i) => g + noise.live() * shaken[t - 1][i]);
        way.push(advance(rule, rows, grads, t, given));
      }
      return way;
    }

    let toNumbers = []; // of places on the stage
    function draw() {
      const chosen = SURFACES[surface.value];
      const width = stage.clientWidth;
      const height = Math.round((width * (chosen.y[1] - chosen.y[0])) / (chosen.x[1] - chosen.x[0]));
      const [x, y] = [scale(chosen.x, false, 0, width), scale(chosen.y, false, height, 0)];
      toNumbers = [scale([0, width], false, ...chosen.x), scale([height, 0], false, ...chosen.y)];
      paint(chosen, width, height);
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      paths.replaceChildren();
      let best = null;
      for (const runner of runners) {
        const { name, on, cells } = runner;
        cells.optimizer.parentNode.classList.toggle("live-off", !on.checked);
        if (!on.checked) continue;
        const way = race(runner, chosen);
        const at = way.map((rows) => rows.map(([p]) => p));
        const [now, before] = [at.at(-1), at.at(-2) ?? at.at(-1)];
        const dots = at.filter((p) => p.every(Number.isFinite)).map((p) => `${trace([p], x, y)}h0`);
        const thick = [6, 2.5][paths.childElementCount] ?? 1.75; // where two paths are equal, both are seen
        const drawn = [[trace(at, x, y), thick], [dots.join(""), thick + 2], [`${trace([now], x, y)}h0`, thick + 8]];
        const style = `stroke:${stroke(colors[name])}`;
        paths.append(el("g", { style }, ...drawn.map(([d, width]) => el("path", { d, "stroke-width": width }))));
        const f = chosen.f(...now);
        if (!best || f < best.f) best = { name, f };
        const pair = (values) => `(${values.map((v) => show(Number(v.toFixed(4)), 2)).join(", ")})`;
        cells.height.textContent = show(f, 2);
        cells.moved.textContent = pair(now.map((p, i) => p - before[i]));
        const state = (k) => pair(way.at(-1).map((row) => row[k + 1]));
        cells.states.replaceChildren(...states[name].map((key, k) => el("div", {}, el("i", {}, key), ` ${state(k)}`)));
      }
      handle.style.left = `${x(start[0])}px`;
      handle.style.top = `${y(start[1])}px`;
      ["min", "max"].forEach((end, i) => handle.setAttribute(`aria-value${end}`, chosen.x[i]));
      handle.setAttribute("aria-valuenow", start[0]);
      handle.setAttribute("aria-valuetext", start.map((p) => show(p, 3)).join(", "));
      text.textContent = best ? fill(words["race-note"], time.live(), names[best.name], show(best.f, 3)) : "";
    }

    function begin(p) {
      start = [SURFACES[surface.value].x, SURFACES[surface.value].y].map(([a, b], i) => Math.min(b, Math.max(a, p[i])));
      draw();
    }
    const pointed = ({ clientX, clientY }) => {
      const { left, top } = svg.getBoundingClientRect();
      begin([clientX - left, clientY - top].map((at, i) => toNumbers[i](at)));
    };
    svg.addEventListener("click", pointed);
    handle.addEventListener("pointerdown", (event) => handle.setPointerCapture(event.pointerId));
    handle.addEventListener("pointermove", (event) => handle.hasPointerCapture(event.pointerId) && pointed(event));
    handle.addEventListener("keydown", (event) => {
      const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (!way || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      begin(start.map((p, i) => p + 0.1 * way[i]));
    });
    return draw;
  });

  LIVE.train = train; // for the tests
})();
