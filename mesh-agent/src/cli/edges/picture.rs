//! Edges as text that programs draw: Graphviz's DOT and Mermaid. Left to right, a box for each namespace, and on every
//! edge its rate, success and 99th percentile; a secured one says so and is a full line.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::Pair;

/// Nodes by namespace, each with its number.
type Nodes<'a> = BTreeMap<&'a str, BTreeMap<&'a str, usize>>;

pub(super) fn dot(pairs: &[Pair]) -> String {
    let nodes = nodes(pairs);
    let mut out = String::from("digraph mesh {\n  rankdir=LR;\n  node [shape=box, style=rounded];\n");
    for (at, (namespace, names)) in nodes.iter().enumerate() {
        // Writing to a String can't fail.
        let _ = writeln!(out, "  subgraph cluster_{at} {{\n    label={};", quoted(namespace));
        for (name, number) in names {
            let _ = writeln!(out, "    n{number} [label={}];", quoted(name));
        }
        out.push_str("  }\n");
    }
    for pair in pairs {
        let (from, to) = ends(&nodes, pair);
        let style = if pair.is_secured() { "solid" } else { "dashed" };
        let color = if fails(pair) { ", color=red" } else { "" };
        let label = quoted(&label(pair, "\n"));
        let _ = writeln!(out, "  n{from} -> n{to} [label={label}, style={style}{color}];");
    }
    out.push_str("}\n");
    out
}

pub(super) fn mermaid(pairs: &[Pair]) -> String {
    let nodes = nodes(pairs);
    let mut out = String::from("flowchart LR\n");
    for (at, (namespace, names)) in nodes.iter().enumerate() {
        let _ = writeln!(out, "  subgraph s{at}[\"{}\"]", entities(namespace));
        for (name, number) in names {
            let _ = writeln!(out, "    n{number}[\"{}\"]", entities(name));
        }
        out.push_str("  end\n");
    }
    let mut failing = Vec::new();
    for (at, pair) in pairs.iter().enumerate() {
        let (from, to) = ends(&nodes, pair);
        let arrow = if pair.is_secured() { "-->" } else { "-.->" };
        let label: Vec<_> = label(pair, "\n").lines().map(entities).collect();
        let _ = writeln!(out, "  n{from} {arrow}|\"{}\"| n{to}", label.join("<br/>"));
        if fails(pair) {
            failing.push(at.to_string());
        }
    }
    if !failing.is_empty() {
        let _ = writeln!(out, "  linkStyle {} stroke:red", failing.join(","));
    }
    out
}

fn nodes(pairs: &[Pair]) -> Nodes<'_> {
    let mut nodes = Nodes::new();
    let mut next = 0;
    for pair in pairs {
        for (namespace, name) in
            [(&pair.source_namespace, &pair.source), (&pair.destination_namespace, &pair.destination)]
        {
            nodes.entry(namespace).or_default().entry(name).or_insert_with(|| {
                next += 1;
                next - 1
            });
        }
    }
    nodes
}

fn ends(nodes: &Nodes<'_>, pair: &Pair) -> (usize, usize) {
    let number =
        |namespace: &str, name: &str| nodes.get(namespace).and_then(|names| names.get(name)).copied();
    let from = number(&pair.source_namespace, &pair.source).unwrap_or_default();
    (from, number(&pair.destination_namespace, &pair.destination).unwrap_or_default())
}

/// Less than 99 % succeed.
fn fails(pair: &Pair) -> bool {
    pair.figures.success.is_some_and(|share| share < 0.99)
}

fn label(pair: &Pair, line: &str) -> String {
    let [_, _, p99] = pair.figures.latencies();
    let mut parts = vec![if pair.is_secured() { "mTLS" } else { "plain" }.to_owned()];
    if pair.figures.requests > 0 {
        parts.push(format!("{} {}", pair.figures.rps_text(), pair.figures.success_text()));
        parts.push(format!("p99 {p99}"));
    } else {
        parts.push(format!("{} connections", pair.figures.connections_open));
    }
    parts.join(line)
}

/// A string of DOT.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => out.push('?'),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Text within quotes of Mermaid, which takes HTML's entities.
fn entities(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '"' => out.push_str("#quot;"),
            '#' => out.push_str("#35;"),
            '<' => out.push_str("#lt;"),
            '>' => out.push_str("#gt;"),
            c if c.is_control() => out.push('?'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests;
