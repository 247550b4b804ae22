import nbformat,sys
nb=nbformat.read(sys.argv[1],4)
for c in nb.cells:
    if c.cell_type=="code" and "#| export" in c.source:
        n=len([l for l in c.source.splitlines() if l.strip() and not l.startswith("#|")]); print(n, c.id, [l for l in c.source.splitlines() if l.startswith(("def","class"))][:2])
