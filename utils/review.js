// On a page that utils/review.py serves: a reader corrects boxes and view of a frame, and saves it. What is not saved
// yet stays with its frame while the page is open.
window.review = (() => {
  const {report, players, el, svg} = window.study;
  const token = JSON.parse(document.getElementById("review").textContent).token;
  const LEAST = 2;  // pixels of a box's side, as utils.corrections asks
  const saved = new Map(), drafts = new Map(), correctors = new Map();  // the first two by clip and frame
  const keyOf = (clip, frame) => `${clip}/${frame}`;
  const copy = boxes => boxes.map(box => ({class: box.class, box: [...box.box]}));

  // --- the reader ---

  const reader = el("input", {id: "reader-name", maxlength: 100, autocomplete: "name", size: 24});
  try { reader.value = localStorage.getItem("reader") ?? ""; } catch { /* storage is off: asked once a page */ }
  reader.addEventListener("input", () => {
    try { localStorage.setItem("reader", reader.value); } catch { /* see above */ }
  });
  const count = el("output", {class: "corrected-count"});
  document.getElementById("reader").append(
    el("p", {}, el("label", {for: "reader-name"}, "Reader "), reader, " ", count));

  // --- the server ---

  async function ask(options) {
    const answer = await fetch("corrections", {...options, headers: {"X-Review-Token": token, ...options.headers}});
    if (!answer.ok) throw new Error((await answer.text()).trim() || answer.statusText);
    return answer.json();
  }

  function note(correction) {
    const key = keyOf(correction.clip, correction.frame);
    saved.set(key, correction);
    if (drafts.get(key)?.changed === false) drafts.delete(key);  // it began from what was said before
    correctors.get(correction.clip)?.mark();
    count.textContent = saved.size ? window.study.many(saved.size, "frame") + " corrected" : "";
  }

  async function load() {
    for (const correction of (await ask({})).corrections) note(correction);
    for (const player of players.values()) player.show(player.at);
  }

  // --- a clip ---

  class Corrector {
    constructor(player) {
      Object.assign(this, {player, editing: false, chosen: 0, selected: -1, drag: null, view: ""});
      const [x1, y1, x2, y2] = player.clip.area ?? [0, 0, player.clip.width, player.clip.height];
      this.area = {x1, y1, x2, y2};
      player.boxes = frame => this.boxes(frame);
      player.hooks.push(() => this.decorate());
      this.build();
      player.overlay.addEventListener("pointerdown", event => this.press(event));
      player.overlay.addEventListener("pointermove", event => this.move(event));
      for (const kind of ["pointerup", "pointercancel"])
        player.overlay.addEventListener(kind, () => this.release());
      player.stage.addEventListener("focusin", event => {  // on the overlay it would make that one focusable itself
        const box = event.target.closest("g.box");
        if (this.editing && box && +box.dataset.index !== this.selected) this.select(+box.dataset.index);
      });
      player.stage.addEventListener("keydown", event => this.key(event));
    }

    get frame() { return this.player.frame; }
    get at() { return keyOf(this.player.id, this.frame); }
    get draft() { return drafts.get(this.at); }

    // What is shown of a frame: what the reader is about to say, has said, or what the network said.
    boxes(frame) {
      const draft = drafts.get(keyOf(this.player.id, frame)), said = saved.get(keyOf(this.player.id, frame));
      if (draft?.changed) return draft.boxes.map(box => ({...box, by: "draft"}));
      if (said) return said.boxes.map(box => ({class: box.class, box: box.box, by: "reader"}));
      return this.player.found.get(frame) ?? [];
    }

    // The draft of this frame, begun from what is shown of it.
    begin() {
      if (!this.draft) {
        const said = saved.get(this.at);
        const view = said ? said.view?.class ?? "" : this.view;
        drafts.set(this.at, {boxes: copy(this.boxes(this.frame)), view: `${view}`, changed: false});
      }
      return this.draft;
    }

    build() {
      const {player} = this, name = `class-${player.index}`;
      this.start = el("button", {type: "button", class: "edit", onclick: () => this.edit(!this.editing)},
        "Correct this frame");
      this.classes = report.names.map((label, i) => el("input", {type: "radio", name, value: i, checked: i === 0}));
      this.classes.forEach((input, i) => input.addEventListener("change", () => this.choose(i)));
      this.views = el("select", {class: "frame-view", "aria-label": "View of the frame"},
        el("option", {value: ""}, "view left open"),
        ...report.view_names.map((view, i) => el("option", {value: i}, view)));
      this.views.addEventListener("change", () => {
        this.begin().view = this.view = this.views.value;
        this.draft.changed = true;
      });
      const button = (text, action, kind) => el("button", {type: "button", class: kind, onclick: action}, text);
      this.tools = el("div", {class: "tools", hidden: true},
        el("fieldset", {}, el("legend", {}, "Class of a box"), ...this.classes.map((input, i) =>
          el("label", {}, input, ` ${i < 9 ? `${i + 1} ` : ""}${report.names[i]}`))),
        el("div", {class: "actions"}, button("Add a box", () => this.add(), "add"),
          this.deleter = button("Delete the box", () => this.remove(), "delete"),
          button("As the network said", () => this.reset(), "reset"), report.view_names.length ? this.views : null,
          button("Save the frame", () => this.save(), "save")),
        el("details", {}, el("summary", {}, "Keys"), el("p", {}, "Drag on the picture to add a box, drag a box to " +
          "move it, a corner to change its size. Tab goes from box to box, 1 to 9 choose the class, N adds a box, Delete " +
          "removes it, Alt and arrows move it, Shift and arrows change its size, with Ctrl by ten pixels; S saves the " +
          "frame.")));
      this.state = el("p", {class: "state", role: "status"});
      this.root = el("div", {class: "corrector"}, this.start, this.state, this.tools);
      player.root.querySelector(".right").append(this.root);
      this.marks = el("div", {class: "marks"});
      player.plot.prepend(this.marks);
    }

    mark() {
      const {steps, id} = this.player;
      this.marks.replaceChildren(...steps.flatMap((frame, i) => {
        if (!saved.has(keyOf(id, frame))) return [];
        const tick = el("span", {class: "mark", title: `frame ${frame}: corrected`});
        tick.style.left = `${100 * (i + 0.5) / steps.length}%`;
        return tick;
      }));
    }

    say(text, kind = "") {
      this.said = text ? {at: this.at, text, kind} : null;
      this.tell();
    }

    tell() {
      const said = saved.get(this.at), here = this.said?.at === this.at ? this.said : null;
      const by = said ? `Corrected by ${said.reader}, ${said.saved}` : "";
      const text = here ? here.text : this.draft?.changed ? "Not saved yet" : by;
      this.state.textContent = text;
      this.state.className = `state ${here?.kind ?? ""}`;
      this.state.dataset.corrected = Boolean(said);
    }

    edit(on) {
      const {player} = this;
      if (on && !player.hasOwnPicture) return this.say("This frame has no picture of its own; step to one that has");
      this.editing = on;
      this.selected = -1;
      player.stop();
      if (on) {
        this.begin();
        player.showBoxes(true);
      } else if (this.draft && !this.draft.changed) drafts.delete(this.at);
      this.tools.hidden = !on;
      this.start.textContent = on ? "Done" : "Correct this frame";
      player.stage.classList.toggle("editing", on);
      player.show(player.at);
      if (on) player.stage.focus({preventScroll: true});
    }

    // After each drawing of the boxes: while editing they can be taken hold of.
    decorate() {
      const {player} = this, scale = player.clip.width / (player.stage.clientWidth || player.clip.width);
      if (this.editing && this.shownAt !== this.at) {  // another frame
        this.leave();
        if (player.playing || !player.hasOwnPicture) return this.edit(false);
        this.selected = -1;
        this.begin();
      }
      this.shownAt = this.at;
      this.tell();
      if (!this.editing) return;
      this.views.value = this.begin().view;
      this.deleter.disabled = this.selected < 0;
      const {x1, y1, x2, y2} = this.area;
      player.overlay.prepend(svg("rect", {class: "area", x: x1, y: y1, width: x2 - x1, height: y2 - y1}));
      for (const shape of player.overlay.querySelectorAll("g.box")) {
        const index = +shape.dataset.index, {box, class: label} = this.draft.boxes[index];
        const place = box.map(Math.round).join(", "), chosen = index === this.selected;
        shape.setAttribute("tabindex", 0);
        shape.setAttribute("role", "button");
        shape.setAttribute("aria-pressed", chosen);
        shape.setAttribute("aria-label", `${report.names[label]} box, ${place}`);
        shape.classList.toggle("selected", chosen);
        if (chosen)
          for (const [corner, x, y] of [["nw", 0, 1], ["ne", 2, 1], ["sw", 0, 3], ["se", 2, 3]]) {
            const side = 10 * scale;
            shape.append(svg("rect", {class: "handle", "data-corner": corner, x: box[x] - side / 2,
              y: box[y] - side / 2, width: side, height: side}));
          }
      }
    }

    leave() {  // a draft that says nothing new is none
      for (const [key, draft] of drafts)
        if (!draft.changed && key !== this.at && key.startsWith(`${this.player.id}/`)) drafts.delete(key);
    }

    redraw() {
      const inside = this.player.overlay.contains(document.activeElement);
      this.player.show(this.player.at);
      if (!inside) return;
      const shape = this.player.overlay.querySelector(`g.box[data-index="${this.selected}"]`);
      (shape ?? this.player.stage).focus({preventScroll: true});
    }

    changed() {
      this.draft.changed = true;
      this.said = null;
      this.redraw();
    }

    select(index) {
      this.selected = index;
      if (index >= 0) {
        this.chosen = this.draft.boxes[index].class;
        this.classes[this.chosen].checked = true;
      }
      this.redraw();
    }

    choose(label) {
      this.chosen = label;
      this.classes[label].checked = true;
      if (this.selected >= 0 && this.draft.boxes[this.selected].class !== label) {
        this.draft.boxes[this.selected].class = label;
        this.changed();
      }
    }

    add() {
      const {x1, y1, x2, y2} = this.area, x = (x1 + x2) / 2, y = (y1 + y2) / 2;
      const wide = (x2 - x1) / 8, high = (y2 - y1) / 8;
      this.begin().boxes.push({class: this.chosen, box: [x - wide, y - high, x + wide, y + high]});
      this.selected = this.draft.boxes.length - 1;
      this.changed();
    }

    remove() {
      if (this.selected < 0) return;
      this.draft.boxes.splice(this.selected, 1);
      this.selected = -1;
      this.changed();
      this.player.stage.focus({preventScroll: true});
    }

    reset() {
      this.draft.boxes = copy(this.player.found.get(this.frame) ?? []);
      this.selected = -1;
      this.changed();
    }

    // A box within the area and no smaller than allowed; `whole` keeps its size.
    put(index, [x1, y1, x2, y2], whole) {
      const {area} = this, clamp = (value, low, high) => Math.max(low, Math.min(high, value));
      if (whole) {
        const dx = clamp(x1, area.x1, area.x2 - (x2 - x1)) - x1, dy = clamp(y1, area.y1, area.y2 - (y2 - y1)) - y1;
        [x1, y1, x2, y2] = [x1 + dx, y1 + dy, x2 + dx, y2 + dy];
      } else {
        [x1, x2] = [Math.min(x1, x2), Math.max(x1, x2)].map(x => clamp(x, area.x1, area.x2));
        [y1, y2] = [Math.min(y1, y2), Math.max(y1, y2)].map(y => clamp(y, area.y1, area.y2));
      }
      this.draft.boxes[index].box = [x1, y1, x2, y2];
      this.draft.changed = true;
      this.said = null;
    }

    point(event) {
      const box = this.player.overlay.getBoundingClientRect(), {width, height} = this.player.clip;
      return [(event.clientX - box.left) / box.width * width, (event.clientY - box.top) / box.height * height];
    }

    press(event) {
      if (!this.editing || event.button) return;
      event.preventDefault();
      this.player.stage.focus({preventScroll: true});
      const [x, y] = this.point(event), shape = event.target.closest("g.box"), {corner} = event.target.dataset;
      this.player.overlay.setPointerCapture(event.pointerId);
      if (corner) {
        const [x1, y1, x2, y2] = this.draft.boxes[this.selected].box;
        this.drag = {index: this.selected, fixed: [corner.includes("w") ? x2 : x1, corner.includes("n") ? y2 : y1]};
      } else if (shape) {
        const index = +shape.dataset.index;
        this.select(index);
        this.drag = {index, from: [x, y], box: [...this.draft.boxes[index].box]};
      } else {
        this.select(-1);
        this.drag = {index: -1, fixed: [x, y]};
      }
    }

    move(event) {
      if (!this.drag) return;
      const [x, y] = this.point(event), {drag} = this;
      if (drag.box) {
        const [dx, dy] = [x - drag.from[0], y - drag.from[1]];
        this.put(drag.index, drag.box.map((value, i) => value + (i % 2 ? dy : dx)), true);
      } else {
        if (drag.index < 0) {
          if (Math.abs(x - drag.fixed[0]) < LEAST || Math.abs(y - drag.fixed[1]) < LEAST) return;
          drag.index = this.draft.boxes.push({class: this.chosen, box: [0, 0, 0, 0]}) - 1;
          this.selected = drag.index;
        }
        this.put(drag.index, [...drag.fixed, x, y], false);
      }
      this.redraw();
    }

    release() {
      const {drag} = this;
      this.drag = null;
      if (!drag || drag.index < 0 || drag.box) return;
      const [x1, y1, x2, y2] = this.draft.boxes[drag.index].box;
      if (x2 - x1 < LEAST || y2 - y1 < LEAST) {  // a slip of the hand
        this.selected = drag.index;
        this.remove();
      }
    }

    key(event) {
      if (!this.editing || event.metaKey || event.target.closest("input, select, textarea, button")) return;
      const arrow = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
      const by = event.ctrlKey ? 10 : 1, label = event.key.match(/^[1-9]$/) ? +event.key - 1 : -1;
      const plain = !event.ctrlKey && !event.altKey;
      if (arrow && (event.altKey || event.shiftKey)) {
        if (this.selected >= 0) {
          const [dx, dy] = arrow.map(step => step * by), [x1, y1, x2, y2] = this.draft.boxes[this.selected].box;
          if (event.altKey) this.put(this.selected, [x1 + dx, y1 + dy, x2 + dx, y2 + dy], true);
          else this.put(this.selected, [x1, y1, Math.max(x1 + LEAST, x2 + dx), Math.max(y1 + LEAST, y2 + dy)], false);
          this.redraw();
        }
      } else if (label >= 0 && label < report.names.length && plain) this.choose(label);
      else if ((event.key === "Delete" || event.key === "Backspace") && plain) this.remove();
      else if (event.key === "Escape") this.select(-1);
      else if ((event.key === "n" || event.key === "N") && plain) this.add();
      else if ((event.key === "s" || event.key === "S") && !event.altKey) this.save();
      else return;
      event.preventDefault();  // the player leaves it alone
    }

    async save() {
      if (!this.editing || this.saving) return;
      if (!reader.value.trim()) {
        this.say("Please type your name at the top of the page first", "wrong");
        reader.focus();
        return;
      }
      const {at, draft, frame} = this, boxes = draft.boxes.map(box =>
        ({class: box.class, box: box.box.map(value => Math.round(10 * value) / 10)}));
      const text = JSON.stringify(draft);
      this.saving = true;
      this.say("Saving …");
      try {
        const content = {clip: this.player.id, frame, reader: reader.value.trim(), boxes,
          view: draft.view === "" ? null : +draft.view};
        const answer = await ask({method: "POST", body: JSON.stringify(content),
          headers: {"Content-Type": "application/json"}});
        if (drafts.get(at) && JSON.stringify(drafts.get(at)) === text) drafts.get(at).changed = false;
        note(answer.saved);
        this.said = {at, text: `Saved as corrected by ${answer.saved.reader}`, kind: "right"};
      } catch (error) {
        this.said = {at, text: `Not saved: ${error.message}`, kind: "wrong"};
      } finally {
        this.saving = false;
      }
      this.redraw();
    }
  }

  for (const player of players.values()) correctors.set(player.id, new Corrector(player));
  load().catch(error => { count.textContent = `The server does not answer: ${error.message}`; });
  document.addEventListener("visibilitychange", () => {  // another tab may have saved
    if (document.visibilityState === "visible") load().catch(() => {});
  });
  addEventListener("beforeunload", event => {
    if ([...drafts.values()].some(draft => draft.changed)) event.preventDefault();
  });
  return {saved, drafts, correctors};
})();
