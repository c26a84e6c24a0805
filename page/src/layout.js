// Where nodes and links are, from left to right. Pure, but for dagre.

import { Graph, layout as dagre } from "./vendor/dagre.js";

/** Every node is as high. */
export const NODE_HEIGHT = 58;
/** Length of the head of a link. */
const ARROW = 7;
/** Room for the sign on a link. */
const LABEL = { call: { width: 110, height: 42 }, answer: { width: 72, height: 28 } };

/** A node is as wide as its name needs, within bounds. */
export function nodeWidth({ name }) {
  return Math.min(260, Math.max(164, Math.round(80 + name.length * 8)));
}

/** Places for every node and link by id, and the size of it all. */
export function layout({ nodes, links }) {
  const graph = new Graph({ multigraph: true });
  graph.setGraph({ rankdir: "LR", nodesep: 40, edgesep: 28, ranksep: 58, marginx: 24, marginy: 24 });
  graph.setDefaultEdgeLabel(() => ({}));
  // In the order of their names, so that the same graph always looks the same.
  for (const node of [...nodes.values()].sort(byId)) {
    graph.setNode(node.id, { width: nodeWidth(node), height: NODE_HEIGHT });
  }
  for (const link of [...links.values()].sort(byId)) {
    graph.setEdge(link.from, link.to, { ...LABEL[link.role], labelpos: "c" }, link.id);
  }
  dagre(graph);
  const { width = 0, height = 0 } = graph.graph();
  const placed = new Map(graph.nodes().map((id) => [id, graph.node(id)]));
  const routes = new Map(
    graph.edges().map((edge) => {
      const label = graph.edge(edge);
      const points = ends(label, placed.get(edge.v), placed.get(edge.w));
      return [edge.name, { x: label.x, y: label.y, points }];
    }),
  );
  return { nodes: placed, links: routes, width: finite(width), height: finite(height) };
}

/**
 * A link leaves a node in the middle of its right side and comes in at the middle of the left, unless it goes back. Behind its
 * sign it is level, so that it hardly runs behind another.
 */
function ends({ points, x, y, width }, from, to) {
  if (from === to || to.x <= from.x) return points;
  const [begin, end] = [from.x + from.width / 2, to.x - to.width / 2 - ARROW];
  const level = width / 2 - 14;
  const sign = [
    { x: x - level, y },
    { x: x + level, y },
  ];
  const others = points.slice(1, -1).filter((it) => it.x > begin && it.x < end && Math.abs(it.x - x) > level);
  const inner = [...others, ...sign].sort((a, b) => a.x - b.x);
  return [{ x: begin, y: from.y }, ...inner, { x: end, y: to.y }];
}

/** A curve through points that is level at each of them. */
export function curve(points) {
  const [first, ...rest] = points;
  let path = `M${first.x} ${first.y}`;
  let last = first;
  for (const point of rest) {
    const half = (point.x - last.x) / 2;
    path += `C${last.x + half} ${last.y} ${point.x - half} ${point.y} ${point.x} ${point.y}`;
    last = point;
  }
  return path;
}

function byId(a, b) {
  return a.id < b.id ? -1 : 1;
}

function finite(number) {
  return Number.isFinite(number) ? number : 0;
}
