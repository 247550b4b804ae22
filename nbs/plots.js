// 3-D figures: plotly.js is loaded from this site, once, when the first of them comes into view.
(() => {
  let library = null;
  const load = () => library ??= new Promise((done, failed) => {
    const script = document.createElement("script");
    Object.assign(script, {src: "plotly.min.js", onload: done, onerror: failed});
    document.head.append(script);
  });
  const draw = source => load().then(() => {
    const script = document.createElement("script");
    script.textContent = source.textContent;
    source.replaceWith(script);
  });
  const drawAll = place => Promise.all([...place.querySelectorAll("script[type='text/x-plot']")].map(draw));
  window.drawPlots = () => drawAll(document);
  const watch = () => {
    const seen = new IntersectionObserver(entries => {
      for (const entry of entries.filter(e => e.isIntersecting)) {
        seen.unobserve(entry.target);
        drawAll(entry.target);
      }
    }, {rootMargin: "300px"});
    document.querySelectorAll(".plot-3d").forEach(e => seen.observe(e));
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", watch);
  else watch();
})();
