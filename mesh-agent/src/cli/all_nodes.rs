//! `--all-nodes`: the same command for each node of a cluster, one after the other.
//!
//! In JSON it is one object with a field for each node; in other formats each node's part begins with `# NODE`, which is a
//! comment to YAML.

use std::ffi::OsString;

use serde_json::{Map, Value};

use super::cluster::{self, ClusterArgs};
use super::output::{Out, json};
use super::{Exit, Failure, Outcome};

const FLAG: &str = "--all-nodes";

/// True of a command line that says it. What else could be so spelled is the value of no option.
pub(super) fn is_wanted(args: &[OsString]) -> bool {
    args.iter().take_while(|arg| *arg != "--").any(|arg| arg == FLAG)
}

/// Runs `args` once for each node, by `one`, which prints to what it is given.
pub(super) fn run(
    args: &[OsString],
    of: &ClusterArgs,
    out: &mut Out<'_>,
    mut one: impl FnMut(Vec<OsString>, &mut Vec<u8>, &mut Out<'_>) -> Exit,
) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let agents = runtime.block_on(cluster::agents(of))?;
    drop(runtime);
    if agents.is_empty() {
        return Err(cluster::none_in(of));
    }
    let (mut worst, mut parts) = (Exit::Ok, Vec::new());
    for agent in &agents {
        let mut said = Vec::new();
        let exit = one(for_node(args, &agent.node), &mut said, out);
        worst = if worst == Exit::Ok { exit } else { worst };
        parts.push((agent.node.clone(), said));
    }
    out.data(&together(parts)?)?;
    Ok(worst)
}

fn for_node(args: &[OsString], node: &str) -> Vec<OsString> {
    let own = |arg: &OsString| {
        if arg == FLAG { OsString::from(format!("--node={node}")) } else { arg.clone() }
    };
    args.iter().map(own).collect()
}

fn together(parts: Vec<(String, Vec<u8>)>) -> Result<String, Failure> {
    let values: Option<Map<String, Value>> = parts
        .iter()
        .filter(|(_, said)| !said.is_empty())
        .map(|(node, said)| Some((node.clone(), serde_json::from_slice(said).ok()?)))
        .collect();
    if let Some(values) = values.filter(|values| !values.is_empty()) {
        return json(&values);
    }
    let text = |(node, said): &(String, Vec<u8>)| format!("# {node}\n{}", String::from_utf8_lossy(said));
    Ok(parts.iter().map(text).collect::<Vec<_>>().join("\n"))
}

/// `--context` and the like, as clap has read them for a command whose own arguments aren't known here.
pub(super) fn cluster_of(matches: &clap::ArgMatches) -> ClusterArgs {
    let mut innermost = matches;
    while let Some((_, deeper)) = innermost.subcommand() {
        innermost = deeper;
    }
    let text = |id: &str| innermost.try_get_one::<String>(id).ok().flatten().cloned();
    ClusterArgs { context: text("context"), namespace: text("agent_namespace") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parts(texts: [&str; 2]) -> String {
        let parts = [("node-a", texts[0]), ("node-b", texts[1])];
        together(parts.map(|(node, text)| (node.to_owned(), text.as_bytes().to_vec())).into()).unwrap()
    }

    #[test]
    fn each_node_has_its_part_in_every_format() {
        assert_eq!(parts(["one\n", "two\n"]), "# node-a\none\n\n# node-b\ntwo\n");
        let both: Value = serde_json::from_str(&parts(["[1]\n", "{\"a\": 2}\n"])).unwrap();
        assert_eq!(both, serde_json::json!({"node-a": [1], "node-b": {"a": 2}}));
        // A node that failed has said why elsewhere.
        assert_eq!(parts(["", "[]\n"]), "{\n  \"node-b\": []\n}\n");
        assert_eq!(parts(["", ""]), "# node-a\n\n# node-b\n");
    }

    #[test]
    fn the_flag_turns_into_a_node_wherever_it_stands() {
        let args = |texts: &[&str]| texts.iter().map(OsString::from).collect::<Vec<_>>();
        let said = args(&["mesh-agent", "get", "--all-nodes", "pods", "-o", "json"]);
        assert!(is_wanted(&said));
        assert_eq!(for_node(&said, "n"), args(&["mesh-agent", "get", "--node=n", "pods", "-o", "json"]));
        assert!(!is_wanted(&args(&["mesh-agent", "status", "--", "--all-nodes"])));
    }
}
