"""Pages measured in headless Chromium, at several widths at once: each in a frame of its own, served from a folder."""
import functools, html, http.server, json, re, shutil, subprocess, tempfile, threading
from contextlib import contextmanager
from pathlib import Path

WIDTHS = 390, 1100, 1400
NAMES = 'chromium', 'chromium-browser', 'google-chrome'

MEASURE = '''
function measure(frame) {
  const doc = frame.contentDocument, win = frame.contentWindow, root = doc.documentElement;
  const shown = e => e.getClientRects().length > 0;
  const scrolls = e => { for (let p = e; p && p !== doc.body; p = p.parentElement)
    if (["auto", "scroll", "hidden"].includes(win.getComputedStyle(p).overflowX)) return true; return false; };
  const wide = [...doc.body.querySelectorAll("*")].filter(e => shown(e) && !scrolls(e) &&
    e.getBoundingClientRect().right > frame.clientWidth + 1);
  const high = list => list.reduce((sum, e) => sum + e.getBoundingClientRect().height, 0);
  const open = [...doc.querySelectorAll("pre")].filter(e => shown(e) && !e.closest(".cell-output, .api, details"));
  return {
    width: frame.clientWidth, page: root.scrollWidth, height: root.scrollHeight,
    wide: wide.slice(0, 5).map(e => e.tagName + "." + e.className + " " + e.textContent.trim().slice(0, 60)),
    images: doc.images.length, broken: [...doc.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src),
    code: high(open)/root.scrollHeight,
    folds: doc.querySelectorAll("details").length, unfolded: doc.querySelectorAll("details[open]").length,
    plots: doc.querySelectorAll(".plotly-graph-div").length,
    drawn: doc.querySelectorAll(".plotly-graph-div:has(.main-svg)").length,
    outside: [...doc.querySelectorAll("script[src], link[href], img[src], iframe[src]")].map(e => e.src || e.href)
      .filter(u => /^https?:/.test(u) && !u.startsWith(win.location.origin)),
    ids: [...doc.querySelectorAll("[id]")].map(e => e.id)
  };
}
'''
FRAMES = '''<!doctype html><body>%s<script>%s
window.addEventListener("load", () => setTimeout(async () => {
  const frames = [...document.querySelectorAll("iframe")];
  for (const f of frames) await f.contentWindow.drawPlots?.();
  const out = frames.map(measure);
  const pre = document.createElement("pre");
  pre.id = "measured"; pre.textContent = JSON.stringify(out);
  document.body.append(pre);
}, %d));
</script></body>'''

def browser():
    "The path of Chromium; None where there is none"
    return next((p for n in NAMES if (p := shutil.which(n))), None)

class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass

@contextmanager
def served(folder):
    "The folder at a port of this machine"
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try: yield f'http://127.0.0.1:{server.server_port}'
    finally:
        server.shutdown()
        server.server_close()

def chromium(*args, limit=120):
    "What Chromium prints"
    with tempfile.TemporaryDirectory() as home:
        command = [browser(), '--headless', '--no-sandbox', '--disable-gpu', '--enable-unsafe-swiftshader',
                   f'--user-data-dir={home}', *args]
        return subprocess.run(command, capture_output=True, text=True, timeout=limit).stdout

def measure(folder, page, widths=WIDTHS, wait=300):
    "What a page is like at each width: a list of dicts"
    frames = ''.join(f'<iframe src="{page}" style="width:{w}px;height:900px;border:0"></iframe>' for w in widths)
    name = f'_measure_{Path(page).stem}.html'
    (Path(folder)/name).write_text(FRAMES % (frames, MEASURE, wait))
    with served(folder) as url:
        dom = chromium('--virtual-time-budget=60000', '--dump-dom', '--window-size=3200,1000', f'{url}/{name}')
    return result(dom)

def result(dom):
    "What a page of ours has written into itself"
    found = re.search(r'<pre id="measured">(.*?)</pre>', dom, re.S)
    if not found: raise RuntimeError('Chromium did not come to the end of the page')
    return json.loads(html.unescape(found[1]))

def picture(folder, page, path, width=1400, height=2000):
    "A page as a PNG"
    with served(folder) as url:
        chromium('--virtual-time-budget=20000', f'--window-size={width},{height}', f'--screenshot={path}',
                 f'{url}/{page}')

AXE = '''<!doctype html><html lang="en"><body><iframe src="%s" style="width:1100px;height:900px"></iframe><script>
window.addEventListener("load", async () => {
  const frame = document.querySelector("iframe"), script = frame.contentDocument.createElement("script");
  script.src = "_axe.js";
  await new Promise(done => { script.onload = done; frame.contentDocument.head.append(script); });
  const result = await frame.contentWindow.axe.run(frame.contentDocument, {resultTypes: ["violations"]});
  const pre = document.createElement("pre");
  pre.id = "measured";
  pre.textContent = JSON.stringify(result.violations.map(v => ({id: v.id, impact: v.impact, help: v.help,
    nodes: v.nodes.slice(0, 3).map(n => n.html.slice(0, 150))})));
  document.body.append(pre);
});
</script></body></html>'''

def accessibility(folder, page, axe):
    "What axe-core finds on a page: [{id, impact, help, nodes}]"
    shutil.copy(axe, Path(folder)/'_axe.js')
    (Path(folder)/'_axe.html').write_text(AXE % page)
    with served(folder) as url: return result(chromium('--virtual-time-budget=60000', '--dump-dom', f'{url}/_axe.html'))
