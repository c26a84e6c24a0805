//! What Graphviz and Mermaid get to read.

use std::collections::BTreeSet;

use super::*;
use crate::cli::live::sum::Sum;

fn pair(source: &str, destination: &str, security: &str, requests: u64, failures: u64) -> Pair {
    let sum = Sum { requests, failures, rps: requests as f64 / 10.0, open: 2, ..Sum::default() };
    let sum = Sum { latency: vec![0, 0, requests], ..sum };
    Pair {
        source: source.into(),
        destination: destination.into(),
        source_namespace: "shop".into(),
        destination_namespace: if destination == "db" { "data" } else { "shop" }.into(),
        security: security.into(),
        client_id: "unknown".into(),
        server_id: "unknown".into(),
        services: BTreeSet::new(),
        protocols: BTreeSet::new(),
        figures: sum.shown(),
    }
}

fn pairs() -> [Pair; 3] {
    [
        pair("web", "cart", "mutual_tls", 100, 0),
        pair("cart", "db", "none", 0, 0),
        pair("we\"b<", "cart", "mutual_tls", 10, 5),
    ]
}

#[test]
fn graphviz() {
    insta::assert_snapshot!(dot(&pairs()), @r#"
    digraph mesh {
      rankdir=LR;
      node [shape=box, style=rounded];
      subgraph cluster_0 {
        label="data";
        n2 [label="db"];
      }
      subgraph cluster_1 {
        label="shop";
        n1 [label="cart"];
        n3 [label="we\"b<"];
        n0 [label="web"];
      }
      n0 -> n1 [label="mTLS\n10.0rps 100.00%\np99 5.0ms", style=solid];
      n1 -> n2 [label="plain\n2 connections", style=dashed];
      n3 -> n1 [label="mTLS\n1.0rps 50.00%\np99 5.0ms", style=solid, color=red];
    }
    "#);
}

#[test]
fn mermaid_of_markdown() {
    insta::assert_snapshot!(mermaid(&pairs()), @r#"
    flowchart LR
      subgraph s0["data"]
        n2["db"]
      end
      subgraph s1["shop"]
        n1["cart"]
        n3["we#quot;b#lt;"]
        n0["web"]
      end
      n0 -->|"mTLS<br/>10.0rps 100.00%<br/>p99 5.0ms"| n1
      n1 -.->|"plain<br/>2 connections"| n2
      n3 -->|"mTLS<br/>1.0rps 50.00%<br/>p99 5.0ms"| n1
      linkStyle 2 stroke:red
    "#);
}

#[test]
fn nothing_is_an_empty_picture() {
    assert_eq!(mermaid(&[]), "flowchart LR\n");
    assert!(dot(&[]).ends_with("}\n"));
}
