"""A picture as Graphviz text, with everything in its place."""

from __future__ import annotations

import html
import itertools

from statetrain.diagram.layout import BOX, DOT, LINE, NAME, ROOT, TITLE, WORDS, Box, Layout, Point, Way, words_of, width_of
from statetrain.diagram.picture import OTHER_ERRORS, Picture, events_of, start_of, picture
from statetrain.lifecycle import FAILED, START, Lifecycle

FONT = "Arial,Helvetica,sans-serif"
THEMES = {
    "light": {
        "paper": "#ffffff", "ink": "#1f2933", "soft": "#6b7785", "line": "#94a1b2", "main": "#4a5766", "hot": "#2b6cb0", "event": "#b7791f",
        "bad": "#c53030", "good": "#2f855a", "state": "#ffffff", "anchor": "#dbe9f9", "badfill": "#fdecec", "goodfill": "#e6f6ed",
        "border": "#c3cdd9", "scopes": ["#fafbfd", "#f2f5fa", "#e8eff8", "#dde7f4"],
    },
    "dark": {
        "paper": "#0d1117", "ink": "#e6edf3", "soft": "#9aa7b5", "line": "#7d8b9b", "main": "#b3bfcc", "hot": "#58a6ff", "event": "#e3b341",
        "bad": "#ff7b72", "good": "#56d364", "state": "#0d1117", "anchor": "#1c3a5e", "badfill": "#3c1618", "goodfill": "#12321f",
        "border": "#3b4654", "scopes": ["#12171f", "#161d28", "#1b2533", "#202e40"],
    },
}

def q(s): return '"' + s.replace("\\", "\\\\").replace('"', '\\"') + '"'

def dot(life, theme="light"):
    p = picture(life); lay = Layout(p); c = THEMES[theme]
    root = lay.boxes[ROOT]
    x0 = root.x-root.left; H = root.bottom; W = root.right+root.left
    def P(pt): return f"{pt[0]-x0:.1f},{H-pt[1]:.1f}"
    out=[]; w=out.append
    w("digraph {")
    w(f'  graph [layout=nop2 bb="0,0,{W:.1f},{H:.1f}" compound=true outputorder=edgesfirst pad=0.15 bgcolor="{c["paper"]}" fontname="{FONT}" fontsize={NAME} fontcolor="{c["soft"]}"]')
    w(f'  node [shape=box style="rounded,filled" fillcolor="{c["state"]}" color="{c["line"]}" fontname="{FONT}" fontsize={NAME} fontcolor="{c["ink"]}" penwidth=1.2]')
    w(f'  edge [fontname="{FONT}" fontsize={WORDS} color="{c["line"]}" arrowsize=0.65 penwidth=1.1 fontcolor="{c["ink"]}"]')
    def dotnode(id,x,y,color):
        return f'{q(id)} [shape=circle label="" fixedsize=true width={DOT/72:.3f} height={DOT/72:.3f} style=filled fillcolor="{color}" color="{color}" pos="{P((x,y))}"]'
    def show(box, depth):
        ind="  "*(depth+1)
        n=box.id
        if box.rows:
            if n!=ROOT:
                w(f'{ind}subgraph {q("cluster_"+n)} {{')
                tw=width_of(n,NAME)
                w(f'{ind}  graph [label={q(n)} bb="{P((box.x-box.left,box.bottom))},{P((box.x+box.right,box.top))}" lp="{P((box.x-box.left+10+tw/2,box.top+TITLE/2+1))}" style="rounded,filled" fillcolor="{c["scopes"][min(depth-1,3)]}" color="{c["border"]}"]')
                if start_of(n) in p.dots: w("  "+ind+dotnode(start_of(n),box.x,box.top+TITLE/2,c["ink"]))
                if events_of(n) in p.dots: w("  "+ind+dotnode(events_of(n),box.x,box.top+TITLE/2,c["event"]))
            for row in box.rows:
                for cell in row: show(cell,depth+1)
            if n!=ROOT: w(ind+"}")
            return
        y=(box.top+box.bottom)/2
        if n==START: w(ind+dotnode(n,box.x,y,c["ink"])); return
        a=[f'pos="{P((box.x,y))}" width={(box.left+box.right)/72:.3f} height={(box.bottom-box.top)/72:.3f} fixedsize=true']
        if n==FAILED: a.append(f'peripheries=2 color="{c["bad"]}" fillcolor="{c["badfill"]}" label=<failed<br/><font point-size="{WORDS}" color="{c["soft"]}">{OTHER_ERRORS}</font>>')
        else:
            s=life.state(n)
            if s.final: a.append(f'peripheries=2 color="{c["good"]}" fillcolor="{c["goodfill"]}"')
            elif s.anchor: a.append(f'color="{c["hot"] if n in p.hot else c["main"]}" fillcolor="{c["anchor"]}"')
            elif n in p.hot: a.append(f'color="{c["hot"]}"')
        w(f'{ind}{q(n)} [{" ".join(a)}]')
    show(root,0)
    for way in sorted(lay.ways,key=lambda w:['event','plain','failure','main','hot'].index(w.arrow.kind)):
        ar=way.arrow
        col={"hot":c["hot"],"main":c["main"],"plain":c["line"],"failure":c["bad"],"event":c["event"]}[ar.kind]
        a=[f'pos="{spline(lay.points(way),P,lay.joins(way))}" color="{col}"']
        if ar.kind=="hot": a.append("penwidth=2")
        if ar.kind=="main": a.append("penwidth=1.6")
        if ar.kind=="event": a.append("style=dashed")
        ws=words_of(ar)
        if ws.width:
            (x,y),(_,y2)=lay.label(way)
            between=y2-y-len(ws.when)*LINE
            h=len(ws.lines)*LINE+between
            fc={"event":c["event"],"failure":c["bad"]}.get(ar.kind,c["ink"])
            cell=lambda l,col,i: f'<tr><td align="left" height="{LINE}"><font color="{col}">{"<i>" if i else ""}{esc(l)}{"</i>" if i else ""}</font></td></tr>'
            rows="".join(cell(l,fc,0) for l in ws.when)
            if not way.straight: rows+=f'<tr><td height="{between}"></td></tr>'
            rows+="".join(cell(l,c["soft"],1) for l in ws.then)
            a.append(f'label=<<table border="0" cellborder="0" cellspacing="0" cellpadding="0" width="{ws.width:.0f}">{rows}</table>> lp="{P((x+ws.width/2,y+h/2))}"')
        if lay.joins(way): a.append("arrowhead=none")
        w(f'  {q(node_of(p,ar.tail))} -> {q(node_of(p,ar.head))} [{" ".join(a)}]')
    w("}")
    return "\n".join(out)+"\n"
def esc(s): return html.escape(s,quote=False)
def node_of(p,id):
    if id in p.scopes:
        if start_of(id) in p.dots: return start_of(id)
        return next(n for n in p.order if n in p.life.inside(id) and n not in p.scopes)
    return id
R=7.0; TIP=7.0
def spline(pts,P,joins=False):
    pts=[pts[0]]+[b for a,b in itertools.pairwise(pts) if a!=b]
    # drop collinear
    clean=[pts[0]]
    for i in range(1,len(pts)-1):
        a,b,d=clean[-1],pts[i],pts[i+1]
        if (a[0]==b[0]==d[0]) or (a[1]==b[1]==d[1]): continue
        clean.append(b)
    clean.append(pts[-1]); pts=clean
    end=pts[-1]; (ax,ay)=pts[-2]
    L=abs(end[0]-ax)+abs(end[1]-ay)
    t=0 if joins else min(TIP,L/2)/L
    last=(end[0]+(ax-end[0])*t,end[1]+(ay-end[1])*t)
    pts=[*pts[:-1],last]
    out=[pts[0]]
    for i in range(1,len(pts)):
        a,b=out[-1],pts[i]
        if i<len(pts)-1:
            d=pts[i+1]
            def toward(u,v,r):
                l=abs(v[0]-u[0])+abs(v[1]-u[1]); r=min(r,l/2)
                return (u[0]+(v[0]-u[0])*r/l,u[1]+(v[1]-u[1])*r/l)
            s,e=toward(b,a,R),toward(b,d,R)
            out+=[a,s,s]
            out+=[b,b,e]
        else: out+=[a,b,b]
    return ("" if joins else "e,"+P(end)+" ")+" ".join(P(x) for x in out)
