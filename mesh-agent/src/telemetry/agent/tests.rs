//! Figures that are taken over from elsewhere at a scrape.

use std::time::Duration;

use super::AgentMetrics;

/// Lines of the text that begin with `name`.
fn lines(agent: &AgentMetrics, name: &str) -> String {
    let text = agent.encode();
    let found: Vec<&str> = text.lines().filter(|line| line.starts_with(name)).collect();
    found.join("\n")
}

#[test]
fn programs_have_figures_only_while_the_kernel_counts() {
    let agent = AgentMetrics::new();
    agent.set_program("connect4", 0, Duration::ZERO);
    assert!(lines(&agent, "mesh_agent_bpf_program").is_empty());
    for (runs, millis) in [(10, 5), (30, 20)] {
        agent.set_program("connect4", runs, Duration::from_millis(millis));
    }
    insta::assert_snapshot!(lines(&agent, "mesh_agent_bpf_program"), @r#"
    mesh_agent_bpf_program_run_seconds_total{program="connect4"} 0.02
    mesh_agent_bpf_program_runs_total{program="connect4"} 30
    "#);
}

#[test]
fn pods_that_are_gone_have_no_figures() {
    let agent = AgentMetrics::new();
    agent.set_pods([("shop/web".to_owned(), 3, 2), ("shop/cart".to_owned(), 1, 0)]);
    agent.set_pods([("shop/web".to_owned(), 4, 5)]);
    insta::assert_snapshot!(lines(&agent, "mesh_agent_pod_connections"), @r#"
    mesh_agent_pod_connections_active{captured_pod="shop/web"} 4
    mesh_agent_pod_connections_refused_total{captured_pod="shop/web"} 5
    "#);
}
