// As much of a browser as the trace page's script needs: runs a page, then what a test asks for, and
// prints what that returns as JSON.   node dom.js PAGE.html "JAVASCRIPT"
"use strict";
const fs = require("fs");
const vm = require("vm");

const html = fs.readFileSync(process.argv[2], "utf8");
const inside = (opening) => html.split(opening)[1].split("</script>")[0];

class Element {
  constructor(tag) {
    Object.assign(this, { tag, attributes: {}, children: [], listeners: {}, styles: {} });
    this.style = { setProperty: (name, value) => { this.styles[name] = value; } };
    this.classList = { toggle: (name, on) => { this.attributes[`class ${name}`] = on; } };
    this.content = this;
  }
  get dataset() {
    const pairs = Object.entries(this.attributes).filter(([name]) => name.startsWith("data-"));
    return Object.fromEntries(pairs.map(([name, value]) => [name.slice(5), value]));
  }
  get firstChild() { return this.children[0]; }
  get textContent() { return this.children.map((child) => child.textContent ?? child).join(""); }
  set textContent(text) { this.children = [String(text)]; }
  setAttribute(name, value) { this.attributes[name] = String(value); }
  append(...children) {
    for (const child of children) {
      if (typeof child !== "string" && !(child instanceof Element)) throw new TypeError(`${child}`);
      if (child instanceof Element) child.parent = this;
      this.children.push(child);
    }
  }
  replaceChildren(...children) { this.children = []; this.append(...children); }
  cloneNode() { return new Element(this.tag); }
  addEventListener(name, listener) { (this.listeners[name] ??= []).push(listener); }
  fire(name, event = {}) {
    for (const listener of this.listeners[name]) listener({ preventDefault() {}, target: this, ...event });
  }
  closest(selector) {
    const name = selector.slice(1, -1);
    return name in this.attributes ? this : this.parent?.closest(selector) ?? null;
  }
  all(tag) {
    const below = this.children.filter((child) => child instanceof Element);
    return [...(this.tag === tag ? [this] : []), ...below.flatMap((child) => child.all(tag))];
  }
  getContext() {
    return new Proxy(this, {
      get: (canvas, name) => (name === "putImageData" ? (image) => { canvas.image = image; } : () => {}),
      set: () => true,
    });
  }
  getBoundingClientRect() { return { left: 0, top: 0, width: 1000, height: 1000 }; }
  showModal() { this.open = true; }
  close() { this.open = false; }
  focus() {}
  scrollIntoView() {}
}

const byId = {};
for (const [, tag, id] of html.matchAll(/<(\w+)[^>]*\bid="([^"{]+)"/g)) byId[id] = new Element(tag);
byId.trace.textContent = inside('id="trace">');
byId.sheets.append(new Element("svg"));
byId.sheet.append(new Element("svg"));
byId.sheet.firstChild.append(new Element("rect"));

const browser = {
  atob, ImageData: class { constructor(w, h) { this.data = new Uint8ClampedArray(4 * w * h); } },
  document: {
    createElement: (tag) => new Element(tag),
    documentElement: new Element("html"),
    getElementById: (id) => byId[id] ?? null,
  },
  getComputedStyle: () => ({ getPropertyValue: () => "#d97706" }),
  matchMedia: () => new Element("media"),
};
const asked = `${inside("<script>\n")}\n(() => { ${process.argv[3]} })();`;
process.stdout.write(JSON.stringify(vm.runInNewContext(asked, browser)));
