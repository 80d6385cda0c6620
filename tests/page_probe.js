// Reports how a page was laid out to the frame around it (tests/browser.py).
addEventListener("load", () => {
  const at = (element) => element.getBoundingClientRect();
  const boxed = (element) => element.closest(".scroll, pre, svg") !== null; // these scroll in a box of their own, or scale
  const elements = [...document.querySelectorAll("main *")];
  const charts = [...document.querySelectorAll("svg")];
  const textsOf = (svg) => [...svg.querySelectorAll("text")];
  const leaves = (svg, text) =>
    at(text).left < at(svg).left - 0.5 || at(text).right > at(svg).right + 0.5 || at(text).bottom > at(svg).bottom + 0.5;
  const meet = (a, b) =>
    at(a).left < at(b).right - 1 && at(b).left < at(a).right - 1 && at(a).top < at(b).bottom - 3 && at(b).top < at(a).bottom - 3;
  const pairs = (texts) => texts.flatMap((a, place) => texts.slice(place + 1).map((b) => [a, b]));
  const over = charts.flatMap((svg) => pairs(textsOf(svg)).filter(([a, b]) => meet(a, b)));
  const height = (text) => parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a;
  const seen = {
    width: innerWidth,
    scroll: document.documentElement.scrollWidth,
    height: document.documentElement.scrollHeight,
    wide: elements.filter((one) => !boxed(one) && at(one).right > innerWidth + 0.5).map((one) => one.tagName + "." + one.className),
    cut: charts.flatMap((svg) => textsOf(svg).filter((text) => leaves(svg, text))).map((text) => text.textContent),
    over: over.map(([a, b]) => a.textContent + " / " + b.textContent),
    broken: [...document.images].filter((image) => !image.naturalWidth).map((image) => image.alt),
    pictures: document.images.length,
    text_px: Math.min(...charts.flatMap((svg) => textsOf(svg).map(height))),
  };
  parent.postMessage(JSON.stringify(seen), "*");
});
