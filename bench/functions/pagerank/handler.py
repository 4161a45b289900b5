"""Ranks the vertices of a random graph with igraph's PageRank."""

import igraph

import inputs

EDGES = 10


def handler(event, context):
    draw = inputs.content(event).random
    vertices = max(2, inputs.size("pagerank", event))
    # To an earlier vertex: old ones gather edges, as in graphs that grew.
    edges = [(vertex, int(draw() * vertex)) for vertex in range(1, vertices) for _ in range(EDGES)]
    graph = igraph.Graph(n=vertices, edges=edges, directed=True)
    ranks = graph.pagerank()
    # To six digits: the last ones are a matter of the processor.
    best = sorted(range(vertices), key=lambda vertex: (-float(f"{ranks[vertex]:.6g}"), vertex))[:100]
    return inputs.answer("pagerank", event, len(edges), repr(best).encode())
