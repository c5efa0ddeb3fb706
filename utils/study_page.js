"use strict";
// A report of echo studies: a table valves x clips, and a player for each clip. Text from the report only ever becomes
// textContent or an attribute's value, never markup. `window.study` is what review.js and the tests hold on to.
window.study = (() => {
  const read = id => JSON.parse(document.getElementById(id).textContent);
  const report = read("report"), kept = read("kept");
  const BRIGHT = ["#ffe628", "#ff6eff", "#00c882", "#ffffff", "#00f0fa", "#be9600", "#c8ff8c"];  // as utils.draw's
  const DASHES = ["", "9 5", "2.5 3.5", "12 4 2.5 4", "16 5", "6 3 2.5 3 2.5 3", "4 8"];
  const SPEEDS = [0.1, 0.25, 0.5, 1, 2];
  const MOST_DECODED = 48;  // pictures held decoded, of all clips together
  const USUAL_FPS = 25;  // where a file does not say
  const SETTINGS = {
    imgsz: "Image size, pixels", clip_window: "Frames averaged with, on either side",
    conf_thres: "Least confidence of a box", iou_thres: "Overlap that suppresses a box",
    max_det: "Most boxes a frame", vid_stride: "Every so many-th frame", calibrate: "Views' probabilities calibrated",
    track_iou: "Least overlap within a track", track_gap: "Longest gap in a track, frames",
    track_frames: "Frames below which a track is uncertain",
    view_agreement: "Agreement below which a view is uncertain", keep_overlay: "Burnt-in text kept",
    keep_identifiers: "Identifiers kept",
  };

  // --- small tools ---

  function fill(node, attributes, children) {
    for (const [key, value] of Object.entries(attributes ?? {})) {
      if (key === "onclick") node.addEventListener("click", value);
      else if (value === true) node.setAttribute(key, "");
      else if (value !== false && value !== null && value !== undefined) node.setAttribute(key, value);
    }
    node.append(...children.flat().filter(child => child !== null && child !== undefined));
    return node;
  }
  const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes, ...children) =>
    fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
  const known = value => value !== null && value !== undefined;
  const percent = value => `${Math.round(100 * value)} %`;
  const two = value => known(value) ? value.toFixed(2) : "–";
  const many = (count, word, words = `${word}s`) => `${count} ${count === 1 ? word : words}`;
  const uncertain = () => el("span", {class: "uncertain"}, "uncertain");
  const pause = () => new Promise(done => setTimeout(done, 0));

  function table(head, rows, looks) {
    return el("div", {class: "scroll", ...looks, tabindex: 0, role: "region"}, el("table", {},
      el("thead", {}, el("tr", {}, ...head.map(cell => cell instanceof Node ? cell : el("th", {scope: "col"}, cell)))),
      el("tbody", {}, ...rows.map(row => el("tr", {}, ...row.map(cell =>
        cell instanceof Node && /^T[HD]$/.test(cell.tagName) ? cell : el("td", {}, cell)))))));
  }

  // --- pictures: base64 in the page, decoded when they are shown ---

  const decoded = new Map();  // key -> promise of an ImageBitmap, the latest used last

  function picture(key) {
    const there = decoded.get(key);
    if (there) {
      decoded.delete(key);
      decoded.set(key, there);
      return there;
    }
    const block = document.getElementById(`picture-${key}`);
    if (!block) return Promise.resolve(null);  // the page is still being read
    const bytes = Uint8Array.from(atob(block.textContent), letter => letter.charCodeAt(0));
    const found = createImageBitmap(new Blob([bytes], {type: "image/jpeg"})).catch(() => null);
    decoded.set(key, found);
    for (const [old, bitmap] of decoded) {
      if (decoded.size <= MOST_DECODED) break;
      decoded.delete(old);
      bitmap.then(image => image && image.close());
    }
    return found;
  }

  // The place of the last value that is not above the one asked for; the first where all are above.
  function lastUpTo(values, asked) {
    let low = 0, high = values.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (values[middle] <= asked) low = middle; else high = middle - 1;
    }
    return low;
  }

  // --- a clip ---

  class Player {
    constructor(clip, number, index) {
      Object.assign(this, {clip, number, index, id: clip.id});
      Object.assign(this, {playing: false, shown: true, speed: 1, drawn: 0, asked: 0});
      this.kept = kept[clip.id] ?? {frames: [], size: [clip.width, clip.height]};
      const timeline = clip.timeline ?? {frame: [], time: [], view: []};
      const tracked = clip.tracks.flatMap(track => track.boxes.map(box => box[0]));
      this.steps = [...new Set([...timeline.frame, ...this.kept.frames, ...tracked])].sort((a, b) => a - b);
      if (!this.steps.length) this.steps = [0];
      const times = new Map(timeline.frame.map((frame, i) => [frame, timeline.time?.[i]]));
      this.timed = known(clip.fps) || (times.size > 0 && [...times.values()].every(known));
      this.times = this.steps.map(frame => times.get(frame) ?? frame / (clip.fps || USUAL_FPS));
      this.views = new Map(timeline.frame.map((frame, i) => [frame, timeline.view?.[i]]));
      this.found = new Map();  // frame -> boxes
      for (const track of clip.tracks)
        for (const [frame, x1, y1, x2, y2, confidence] of track.boxes) {
          const box = {class: track.class, box: [x1, y1, x2, y2], confidence, uncertain: track.uncertain};
          this.found.set(frame, [...this.found.get(frame) ?? [], box]);
        }
      const peaks = clip.tracks.map(track => track.peak).sort((a, b) => b.confidence - a.confidence);
      this.peak = peaks.length ? peaks[0].frame : this.steps[0];
      this.hooks = [];  // called after each drawing of the boxes
      this.boxes = frame => this.found.get(frame) ?? [];  // review.js puts a reader's in their place
      this.root = this.build();
      this.at = lastUpTo(this.steps, this.peak);
    }

    get frame() { return this.steps[this.at]; }
    get pictureAt() { return lastUpTo(this.kept.frames, this.frame); }
    get hasOwnPicture() { return this.kept.frames[this.pictureAt] === this.frame; }

    build() {
      const {clip} = this, title = `clip-title-${this.index}`;
      this.canvas = el("canvas", {width: this.kept.size[0], height: this.kept.size[1], "aria-hidden": "true"});
      this.overlay = svg("svg", {
        class: "overlay", viewBox: `0 0 ${clip.width} ${clip.height}`, preserveAspectRatio: "none", role: "group",
        "aria-label": "Boxes",
      });
      const keys = "Space plays and pauses, arrow keys step, with Shift by ten, Home and End, plus and minus change " +
        "the speed, B switches boxes";
      this.stage = el("div", {class: "stage", tabindex: 0, role: "group", "aria-label": `Clip ${this.number}. ${keys}`},
        this.canvas, this.overlay);
      this.stage.style.aspectRatio = `${clip.width} / ${clip.height}`;
      if (!this.kept.frames.length) this.stage.prepend(el("p", {class: "blank"}, "no pictures were kept of this clip"));
      this.playButton = el("button", {type: "button", class: "play", onclick: () => this.toggle()}, "Play");
      this.slider = el("input", {type: "range", min: 0, max: this.steps.length - 1, step: 1, value: 0,
        "aria-label": `Frame of clip ${this.number}`});
      this.slider.addEventListener("input", () => this.show(+this.slider.value));
      this.speeds = el("select", {"aria-label": "Speed"},
        ...SPEEDS.map(speed => el("option", {value: speed, selected: speed === 1}, `${speed}×`)));
      this.speeds.addEventListener("change", () => { this.speed = +this.speeds.value; });
      this.switch = el("input", {type: "checkbox", checked: true});
      this.switch.addEventListener("change", () => this.showBoxes(this.switch.checked));
      this.readout = el("output", {class: "readout"});
      this.now = el("p", {class: "now"});
      const one = this.steps.length < 2;
      this.controls = el("div", {class: "controls"}, one ? null : this.playButton, one ? null : this.slider,
        one ? null : this.speeds, el("label", {}, this.switch, " boxes"));
      this.print = el("img", {alt: ""});
      const root = el("section", {class: "clip", id: clip.id, "aria-labelledby": title},
        el("h3", {id: title}, `Clip ${this.number}`, el("span", {class: "name"}, clip.file ?? clip.id)),
        el("div", {class: "left"},
          this.stage, el("figure", {class: "print-only stage"}, this.print, this.printed = svg("svg", {
            class: "overlay", viewBox: `0 0 ${clip.width} ${clip.height}`, preserveAspectRatio: "none"}),
          el("figcaption", {}, `frame ${this.peak}`)),
          this.controls, el("div", {class: "reading"}, this.readout, this.now), this.timeline()),
        el("div", {class: "right"}, ...this.facts(), this.tracks()));
      root.addEventListener("keydown", event => this.key(event));
      return root;
    }

    facts() {
      const {clip} = this, {view} = clip, scale = clip.cm_per_pixel;
      const asked = [...this.views.values()].filter(known).length;
      const size = [many(clip.frames, "frame"), clip.fps ? `${+clip.fps.toFixed(1)} a second` : null,
        `${clip.width} × ${clip.height} pixels`,
        scale ? `${[...new Set(scale.map(cm => +cm.toFixed(4)))].join(" × ")} cm a pixel` : "no scale known",
        clip.acquired ? `acquired ${clip.acquired}` : null, clip.uid];
      return [
        view ? el("p", {class: "view"}, "View ", el("strong", {}, view.name), ` ${two(view.confidence)}, in `,
          `${percent(view.agreement)} of ${many(asked, "frame")} `, view.uncertain ? uncertain() : null) : null,
        el("p", {class: "facts"}, size.filter(Boolean).join(" · ")),
        clip.note ? el("p", {class: "note"}, clip.note) : null,
      ];
    }

    moment(point) {
      return this.timed && known(point.time) ? `${point.frame} (${point.time.toFixed(2)} s)` : `${point.frame}`;
    }

    tracks() {
      const rows = this.clip.tracks.map(track => {
        const {largest} = track, [x1, y1, x2, y2] = largest.box;
        const size = largest.cm ? `${largest.cm.map(cm => cm.toFixed(1)).join(" × ")} cm`
          : `${Math.round(x2 - x1)} × ${Math.round(y2 - y1)} px`;
        const jump = el("button", {type: "button", onclick: () => this.jump(track.peak.frame),
          "aria-label": `${track.name} ${track.id}: to its peak at frame ${track.peak.frame}`}, `${track.name} `,
          el("small", {}, `#${track.id}`));
        return [el("th", {scope: "row"}, jump, track.uncertain ? uncertain() : null), this.moment(track.onset),
          `${track.frames}`, `${two(track.peak.confidence)} at ${this.moment(track.peak)}`, size];
      });
      if (!rows.length) return el("p", {class: "none"}, "No regurgitation found.");
      return table(["Track", "Onset", "Frames", "Peak", "Largest"], rows,
        {class: "scroll tracks", "aria-label": `Tracks of clip ${this.number}`});
    }

    // Lanes, one a class that was found and one a view: their height is the confidence, so that colour says nothing.
    timeline() {
      const {clip, steps} = this, lanes = [], n = steps.length, place = new Map(steps.map((frame, i) => [frame, i]));
      const bars = values => values.map(([i, value]) => `M${i} 100V${(100 - 100 * value).toFixed(1)}h1V100z`).join("");
      const lane = (name, shapes, kind) => lanes.push(el("span", {class: "lane-name"}, name), svg("svg", {
        class: `lane ${kind}`, viewBox: `0 0 ${n} 100`, preserveAspectRatio: "none", "aria-hidden": "true",
      }, ...shapes));
      const hatch = `hatch-${this.index}`;
      for (const label of [...new Set(clip.tracks.map(track => track.class))].sort((a, b) => a - b)) {
        const of = sure => {
          const best = new Map();
          for (const track of clip.tracks)
            if (track.class === label && track.uncertain !== sure)
              for (const box of track.boxes) {
                const at = place.get(box[0]);
                best.set(at, Math.max(best.get(at) ?? 0, box[5]));
              }
          return [...best];
        };
        const threshold = report.settings?.conf_thres;
        lane(report.names[label] ?? `${label}`, [
          svg("defs", {}, svg("pattern", {id: `${hatch}-${label}`, patternUnits: "userSpaceOnUse", width: n / 90,
            height: 100}, svg("rect", {width: n / 200, height: 100, class: "sure"}))),
          svg("path", {d: bars(of(false)), class: "unsure", fill: `url(#${hatch}-${label})`}),
          svg("path", {d: bars(of(true)), class: "sure"}),
          known(threshold) ? svg("line", {x1: 0, x2: n, y1: 100 - 100 * threshold, y2: 100 - 100 * threshold}) : null,
        ], "boxes");
      }
      const rows = [...this.views].filter(([, row]) => row?.length).map(([frame, row]) => [place.get(frame), row]);
      if (rows.length)
        report.view_names.forEach((name, view) => {
          const where = best => rows.filter(([, row]) => (Math.max(...row) === row[view]) === best)
            .map(([i, row]) => [i, row[view]]);
          lane(name, [svg("path", {d: bars(where(false)), class: "other"}),
            svg("path", {d: bars(where(true)), class: "top"})], "view");
        });
      this.cursor = el("div", {class: "cursor"});
      this.plot = el("div", {class: "plot"}, this.cursor);
      const seek = event => {
        const box = this.plot.getBoundingClientRect();
        this.show(Math.floor((event.clientX - box.left) / box.width * n));
      };
      this.plot.addEventListener("pointerdown", event => {
        this.plot.setPointerCapture(event.pointerId);
        seek(event);
      });
      this.plot.addEventListener("pointermove", event => event.buttons && seek(event));
      const last = n - 1, ticks = n < 2 ? [0] : [0, last >> 1, last];
      const text = i => this.timed ? `${this.times[i].toFixed(2)} s` : `${steps[i]}`;
      const label = `Confidence of boxes and probability of views over the frames of clip ${this.number}; ` +
        "the slider above moves along it";
      return el("div", {class: "timeline", role: "img", "aria-label": label}, ...lanes, this.plot,
        el("span", {class: "lane-name"}, this.timed ? "time" : "frame"),
        el("div", {class: "ticks"}, ...ticks.map(i => el("span", {}, text(i)))));
    }

    // --- what is shown ---

    show(at) {
      this.at = Math.max(0, Math.min(this.steps.length - 1, at));
      this.slider.value = this.at;
      this.paint();
      this.drawBoxes();
      const time = this.timed ? `, ${this.times[this.at].toFixed(2)} s` : "";
      this.slider.setAttribute("aria-valuetext", `frame ${this.frame}${time}`);
      const borrowed = this.kept.frames.length && !this.hasOwnPicture;
      const other = borrowed ? `; picture of ${this.kept.frames[this.pictureAt]}` : "";
      this.readout.textContent = `Frame ${this.frame} of ${this.clip.frames}${time}${other}`;
      const row = this.views.get(this.frame), view = row?.length ? row.indexOf(Math.max(...row)) : -1;
      const boxes = this.boxes(this.frame).map(box => this.name(box));
      this.now.textContent = [view < 0 ? null : `${report.view_names[view]} ${two(row[view])}`, ...boxes]
        .filter(Boolean).join(" · ");
      this.cursor.style.left = `${100 * (this.at + 0.5) / this.steps.length}%`;
    }

    seek(frame) { this.show(lastUpTo(this.steps, frame)); }

    async paint() {
      if (!this.kept.frames.length) return;
      const turn = ++this.asked, at = this.pictureAt;
      const image = await picture(`${this.index}-${at}`);
      if (!image || turn < this.drawn) return;  // a later one came first
      this.drawn = turn;
      this.painted = this.kept.frames[at];
      this.canvas.getContext("2d").drawImage(image, 0, 0, this.canvas.width, this.canvas.height);
      if (this.playing && at + 1 < this.kept.frames.length) picture(`${this.index}-${at + 1}`);
    }

    name(box, mark = "uncertain") {
      const name = report.names[box.class] ?? `${box.class}`;
      const sure = known(box.confidence) ? ` ${two(box.confidence)}` : "";
      return `${name}${box.by ? ` (${box.by})` : sure}${box.uncertain ? ` ${mark}` : ""}`;
    }

    drawBoxes() {
      this.overlay.replaceChildren(...this.shown ? this.shapes(this.boxes(this.frame), this.stage.clientWidth) : []);
      for (const hook of this.hooks) hook();
    }

    // Boxes as vectors over the picture: a dark rim, a line in the class's dash, a label that names it.
    shapes(boxes, width) {
      const size = 13 * this.clip.width / (width || this.clip.width);  // 13 pixels of the screen
      const labels = [];
      return boxes.map((box, index) => {
        const [x1, y1, x2, y2] = box.box, tint = box.class % BRIGHT.length, text = this.name(box, "?");
        const frame = {x: x1, y: y1, width: x2 - x1, height: y2 - y1};
        const right = x1 > 0.7 * this.clip.width, long = 0.62 * size * text.length, x = right ? x2 - long : x1;
        const places = [y1 - 0.35 * size, y2 + 1.1 * size, y1 + 1.2 * size, y2 - 0.5 * size]
          .filter(y => y > size && y < this.clip.height - 3);
        const free = y => !labels.some(other => Math.abs(other.y - y) < size && x < other.x + other.long
          && other.x < x + long);
        const y = places.find(free) ?? places[0] ?? size;
        labels.push({x, y, long});
        return svg("g", {class: "box", "data-index": index},
          svg("rect", {...frame, class: "rim"}),
          svg("rect", {...frame, class: "line", stroke: BRIGHT[tint], "stroke-dasharray": DASHES[tint]}),
          svg("text", {x: right ? x2 : x1, y, "text-anchor": right ? "end" : "start", "font-size": size,
            "stroke-width": size / 4}, text));
      });
    }

    showBoxes(shown) {
      this.shown = this.switch.checked = shown;
      this.drawBoxes();
    }

    // --- how it moves ---

    toggle() { if (this.playing) this.stop(); else this.play(); }

    play() {
      if (this.steps.length < 2) return;
      for (const other of players.values()) other.stop();
      this.playing = true;
      this.playButton.textContent = "Pause";
      const last = this.times.length - 1, start = this.times[0];
      const whole = (this.times[last] - start) * (last + 1) / last;  // the last frame lasts as long as the others
      let before = performance.now(), time = this.times[this.at], mine = this.at;
      const tick = now => {
        if (!this.playing) return;
        if (this.at !== mine) time = this.times[this.at];  // the reader moved it
        time += Math.max(0, now - before) / 1000 * this.speed;
        before = now;
        if (whole > 0) time = start + (time - start) % whole;
        mine = lastUpTo(this.times, time);
        if (this.at !== mine) this.show(mine);
        requestAnimationFrame(tick);
      };
      requestAnimationFrame(tick);
    }

    stop() {
      this.playing = false;
      this.playButton.textContent = "Play";
    }

    step(by) {
      this.stop();
      this.show(this.at + by);
    }

    jump(frame) {
      this.stop();
      this.seek(frame);
      this.root.scrollIntoView({block: "nearest"});
      this.stage.focus({preventScroll: true});
      const box = this.stage.getBoundingClientRect();
      if (box.top < 0 || box.bottom > innerHeight) this.root.scrollIntoView({block: "start"});
    }

    key(event) {
      const typing = event.target.closest("input, select, textarea, button, .scroll");
      if (typing || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
      const by = event.shiftKey ? 10 : 1, faster = by => {
        this.speeds.selectedIndex = Math.max(0, Math.min(SPEEDS.length - 1, this.speeds.selectedIndex + by));
        this.speed = +this.speeds.value;
      };
      const actions = {
        " ": () => this.toggle(), k: () => this.toggle(),
        ArrowRight: () => this.step(by), ArrowLeft: () => this.step(-by),
        Home: () => this.step(-Infinity), End: () => this.step(Infinity), b: () => this.showBoxes(!this.shown),
        "+": () => faster(1), "-": () => faster(-1),
      };
      const action = actions[event.key] ?? actions[event.key.toLowerCase()];
      if (!action) return;
      event.preventDefault();
      action();
    }

    // The peak for the printer; a browser only decodes it when it prints.
    preparePrint() {
      const block = document.getElementById(`picture-${this.index}-${lastUpTo(this.kept.frames, this.peak)}`);
      if (block) this.print.src = `data:image/jpeg;base64,${block.textContent}`;
      this.print.alt = `Frame ${this.peak} of clip ${this.number}`;
      this.printed.replaceChildren(...this.shapes(this.found.get(this.peak) ?? [], 330));
    }
  }

  // --- the page ---

  const players = new Map();

  function findings(study, clips) {
    const head = [el("th", {scope: "col"}, "Valve"), ...clips.map(({clip, number}) => el("th", {scope: "col"},
      el("a", {href: `#${clip.id}`}, `Clip ${number}`), el("small", {}, clip.view ? ` ${clip.view.name}` : "",
        clip.view?.uncertain ? " uncertain" : "")))];
    const rows = study.valves.map(valve => [
      el("th", {scope: "row"}, el("strong", {}, valve.name), el("small", {}, valve.clips === 0 ? "not found"
        : `in ${many(valve.clips, "clip")}, ${valve.certain} certain`)),
      ...valve.cells.map((cell, i) => {
        if (!cell) return el("td", {class: "empty"}, "–");
        const to = players.get(cell.clip), words = cell.uncertain ? ", uncertain" : "";
        return el("td", {class: cell.uncertain ? "cell unsure" : "cell"}, el("button", {type: "button",
          onclick: () => to?.jump(cell.peak_frame), "aria-label": `${valve.name}, clip ${clips[i]?.number}: ` +
            `peak ${two(cell.confidence)}, ${many(cell.frames, "frame")}${words}; show frame ${cell.peak_frame}`},
        el("span", {class: "score"}, two(cell.confidence)), el("small", {}, many(cell.frames, "frame")),
        cell.uncertain ? uncertain() : null));
      })]);
    return table(head, rows, {class: "scroll findings", "aria-label": "Valves by clips"});
  }

  function setting(value) {
    return value === true ? "yes" : value === false ? "no" : known(value) ? `${value}` : "–";
  }

  function build() {
    for (const line of document.querySelectorAll(".notice")) line.textContent = report.notice;
    const {weights} = report, count = report.studies.reduce((sum, study) => sum + study.clips.length, 0);
    document.querySelector(".origin").textContent = [`Made ${report.created}`,
      many(report.studies.length, "study", "studies"), many(count, "clip")].join(" · ");
    const place = document.getElementById("studies");
    let index = 0;
    for (const [at, study] of report.studies.entries()) {
      const clips = study.clips.map((clip, i) => ({clip, number: i + 1}));
      for (const {clip, number} of clips) players.set(clip.id, new Player(clip, number, index++));
      const name = [study.patient, study.uid].filter(Boolean).join(" · ") || study.id;
      place.append(el("section", {class: "study", "aria-labelledby": `study-title-${at}`},
        el("h2", {id: `study-title-${at}`}, `Study ${at + 1}`, el("span", {class: "name"}, name)),
        clips.length ? findings(study, clips) : el("p", {class: "none"}, "No clips."),
        clips.length ? el("p", {class: "legend"}, "Peak confidence of the network, 0 to 1, and frames with a box. ",
          "Hatched and marked “uncertain” (“?” on a picture): short tracks, or a view the network is not sure of. ",
          el("span", {class: "screen-only"}, "A click on a cell shows its frame.")) : null,
        ...clips.map(({clip}) => players.get(clip.id).root)));
    }
    if (!report.studies.length) place.append(el("p", {class: "none"}, "No studies."));
    const skipped = document.getElementById("skipped");
    if (report.skipped?.length) {
      skipped.hidden = false;
      skipped.append(table(["File", "Why"], report.skipped.map(({file, reason}) =>
        [el("td", {class: "mono"}, file), reason]), {"aria-label": "Files that were not read"}));
    }
    const rows = Object.entries(report.settings ?? {}).map(([key, value]) =>
      [el("th", {scope: "row"}, SETTINGS[key] ?? key), setting(value)]);
    document.getElementById("settings").append(table(["Setting", "Value"], [
      [el("th", {scope: "row"}, "Weights"), el("td", {class: "mono"}, `${weights?.file ?? "–"}`)],
      [el("th", {scope: "row"}, "SHA-256 of the weights"), el("td", {class: "mono"}, `${weights?.sha256 ?? "–"}`)],
      [el("th", {scope: "row"}, "Made"), `${report.created}`], ...rows], {"aria-label": "Settings"}));
  }

  function watch() {
    const seen = new IntersectionObserver(entries => {
      for (const entry of entries)
        if (entry.isIntersecting) players.get(entry.target.id).show(players.get(entry.target.id).at);
    }, {rootMargin: "300px"});
    const wide = new ResizeObserver(entries => {
      for (const entry of entries) players.get(entry.target.closest(".clip").id).drawBoxes();
    });
    for (const player of players.values()) {
      seen.observe(player.root);
      wide.observe(player.stage);
      player.show(player.at);
    }
  }

  async function finish() {  // all pictures are there now
    for (const player of players.values()) {
      if (player.painted === undefined) player.paint();
      player.preparePrint();
      await pause();
    }
    document.documentElement.dataset.ready = "yes";
  }

  build();
  watch();
  document.addEventListener("DOMContentLoaded", finish);
  return {report, players, el, svg, two, many};
})();
