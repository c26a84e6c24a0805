//! What people see: help, tables, errors and exit codes. A real socket, no agent behind it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ffi::OsString;
use std::path::Path;

use super::*;
use crate::admin::api;
use crate::admin::testing::Fixture;

mod describe;
mod live;
mod route;

struct Printed {
    exit: Exit,
    stdout: String,
    stderr: String,
}

/// Runs `line`, which is split at spaces; `DIR` stands for `dir`.
fn cli_in(dir: &Path, line: &str) -> Printed {
    let args = std::iter::once("mesh-agent").chain(line.split(' '));
    let args = args.map(|arg| OsString::from(arg.replace("DIR", &dir.display().to_string())));
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let exit = run(args, &mut stdout, &mut stderr);
    let text = |bytes| String::from_utf8(bytes).unwrap().replace(&dir.display().to_string(), "DIR");
    Printed { exit, stdout: text(stdout), stderr: text(stderr) }
}

fn cli(fixture: &Fixture, line: &str) -> Printed {
    cli_in(fixture.dir.path(), &format!("{line} --state-dir DIR"))
}

/// The output of a command that must go well.
fn good(fixture: &Fixture, line: &str) -> String {
    let printed = cli(fixture, line);
    assert_eq!(printed.exit, Exit::Ok, "{}", printed.stderr);
    printed.stdout
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn help_fits_a_page() {
    let printed = cli_in(Path::new("/"), "get services --help");
    assert_eq!(printed.exit, Exit::Ok);
    let words: Vec<_> =
        printed.stdout.lines().filter(|l| l.trim_start().starts_with('-')).map(str::trim).collect();
    assert!(words.iter().any(|l| l.starts_with("-o, --output <FORMAT>")), "{words:?}");
    assert!(words.iter().any(|l| l.starts_with("-w, --watch")), "{words:?}");
    let help = cli_in(Path::new("/"), "--help").stdout;
    assert!(help.contains("79 issues found") && help.lines().count() < 50, "{help}");
}

#[test]
fn workloads() {
    let fixture = Fixture::start();
    insta::assert_snapshot!(good(&fixture, "get workloads"), @r#"
    NAMESPACE   NAME     ADDRESS            NODE     CAPTURE      FAIL-MODE
    shop        cart-1   10.1.0.2,fd00::2   node-a   pending      closed
    shop        cart-2   10.2.0.2           node-b   other-node   closed
    shop        web-1    10.1.0.1           node-a   captured     closed
    "#);
    insta::assert_snapshot!(good(&fixture, "get w -o name"), @r#"
    shop/cart-1
    shop/cart-2
    shop/web-1
    "#);
    let wide = good(&fixture, "get pods -o wide");
    assert!(wide.contains("/run/netns/cart-1: not found"), "{wide}");
}

#[test]
fn services() {
    let fixture = Fixture::start();
    insta::assert_snapshot!(good(&fixture, "get svc -o wide"), @r#"
    NAMESPACE   NAME   ADDRESS      PORTS     ENDPOINTS   LB          AFFINITY   PATH           HOST
    shop        cart   10.96.0.10   80/http   1/2         peak-ewma   -          agent: route   cart.shop.svc.cluster.local
    "#);
    insta::assert_snapshot!(good(&fixture, "get services -o yaml"), @r#"
    - namespace: shop
      name: cart
      host: cart.shop.svc.cluster.local
      addresses:
      - 10.96.0.10
      headless: false
      ports:
      - name: http
        port: 80
        protocol: http
        protocolFrom: port-name
        path: 'agent: route'
        loadBalancer: peak-ewma
        clientIpAffinity: false
        available: 1
        total: 2
    "#);
}

#[test]
fn routes() {
    let fixture = Fixture::start();
    insta::assert_snapshot!(good(&fixture, "get routes"), @r#"
    NAMESPACE   NAME   KIND        PARENT         RULES   ACCEPTED   RESOLVED-REFS
    shop        cart   HTTPRoute   shop/cart:80   1       True       True
    "#);
    assert_eq!(good(&fixture, "get routes -o name"), "HTTPRoute/shop/cart\n");
    let yaml = good(&fixture, "get routes -o yaml");
    assert!(yaml.contains("role: producer") && yaml.contains("reason: ResolvedRefs"), "{yaml}");
    assert!(good(&fixture, "config dump").contains("\"routes\""));
}

#[test]
fn policies() {
    let fixture = Fixture::start();
    insta::assert_snapshot!(good(&fixture, "get policies"), @r#"
    NAMESPACE   NAME     KIND                    TARGET                             GROUPS               STATE      VERSION
    shop        budget   XBackendTrafficPolicy   Service shop/cart                  sessionPersistence   attached   newest
    shop        cart     DestinationRule         host cart.shop.svc.cluster.local   outlierDetection     attached   newest
    shop        limits   TrafficPolicy           Service shop/cart                  rateLimit,retry      attached   newest
    shop        slow     TrafficPolicy           HTTPRoute shop/cart                timeout              attached   newest
    "#);
    assert_eq!(good(&fixture, "get policy -o name -n shop").lines().count(), 4);
    let yaml = good(&fixture, "get policies -o yaml");
    assert!(yaml.contains("state: attached") && yaml.contains("lastValid: false"), "{yaml}");
    let file = fixture.dir.path().join("dump.json");
    std::fs::write(&file, good(&fixture, "config dump")).unwrap();
    let off_line = cli_in(fixture.dir.path(), "get policies --state-dir /nonexistent -f DIR/dump.json");
    assert_eq!((off_line.exit, off_line.stdout), (Exit::Ok, good(&fixture, "get policies")));
}

#[test]
fn endpoints() {
    let fixture = Fixture::start();
    insta::assert_snapshot!(good(&fixture, "get endpoints --service cart -o wide"), @r#"
    NAMESPACE   SERVICE   PORT   ADDRESS         WORKLOAD      STATE         IN-FLIGHT   LATENCY   USED   NODE     ZONE
    shop        cart      80     10.1.0.2:8080   shop/cart-1   ready         0           -         yes    node-a   west
    shop        cart      80     10.2.0.2:8080   shop/cart-2   terminating   0           -         no     node-b   -
    "#);
}

#[test]
fn an_empty_list_is_no_error_and_says_so_on_stderr() {
    let fixture = Fixture::start();
    for line in ["get connections", "get svc -n elsewhere", "get ep --service other -o name"] {
        let printed = cli(&fixture, line);
        assert_eq!((printed.exit, printed.stdout.as_str()), (Exit::Ok, ""), "{line}");
        assert_eq!(printed.stderr, "nothing found\n");
    }
    assert_eq!(good(&fixture, "get connections -o json"), "[]\n");
}

#[test]
fn bpf_views() {
    let fixture = Fixture::start();
    insta::assert_snapshot!(good(&fixture, "bpf programs"), @r#"
    NAME       ID   HOOK              ATTACHED   RUNS   NS/RUN
    connect4   31   cgroup/connect4   1          100    410
    sock_ops   32   sockops           1          -      -
    "#);
    insta::assert_snapshot!(good(&fixture, "bpf maps -o wide"), @r#"
    NAME      TYPE   ENTRIES   MAX    PIN
    pods_v1   hash   2         4096   /sys/fs/bpf/mesh-agent/maps/pods_v1
    "#);
    insta::assert_snapshot!(good(&fixture, "bpf reasons --all"), @r#"
    NUMBER   REASON         COUNT
    0        captured       7
    1        agent_socket   0
    "#);
}

#[test]
fn status_in_a_few_lines() {
    let fixture = Fixture::start();
    let waiting = fixture.state.readiness.begin(crate::admin::task::PODS);
    let status: String = good(&fixture, "status --color never")
        .lines()
        .map(|line| match line.split_once("   up ") {
            Some((start, _)) => format!("{start}   up ...\n"),
            None => format!("{line}\n"),
        })
        .collect();
    drop(waiting);
    insta::assert_snapshot!(status, @r#"
    Agent:         WARN   v0.1.0   node node-a   up ...
                          waiting for: pods captured
    Configuration: WARN   generation 1   dir:/mesh   3 workloads   1 service   2 endpoints
                          rolled back to generation 1 at 2027-01-15T08:00:05Z, until the source changes: end it with `mesh-agent config rollback --release`
                          1 warning: see `mesh-agent config warnings`
    Kernel:        OK     Linux 6.8.0   2 programs   1 map   heartbeat 40ms ago
    Pods:          WARN   1/2 captured
                          shop/cart-1 pending: /run/netns/cart-1: not found
    Identity:      OK     2/2 certificates valid   trust domain cluster.local   issuer testing   1 root
    Traffic:       OK     0 outbound and 0 inbound connections   0 requests under way
    "#);
}

#[test]
fn certificates_are_listed_without_their_keys() {
    let fixture = Fixture::start();
    assert_eq!(good(&fixture, "get certs -o name"), "shop/cart\nshop/web\n");
    assert_eq!(good(&fixture, "get cert -n shop -o name"), "shop/cart\nshop/web\n");
    let table = good(&fixture, "get certs");
    let mut lines = table.lines();
    let header = "NAMESPACE   SERVICE-ACCOUNT   STATE   EXPIRES-IN   RENEWED-IN   ISSUER    REASON";
    assert_eq!(lines.next(), Some(header));
    assert!(
        lines.next().is_some_and(|row| row.starts_with("shop        cart              valid   ")),
        "{table}"
    );
    let wide = good(&fixture, "get certs -o wide");
    assert!(
        wide.contains("CN=test root") && wide.contains("spiffe://cluster.local/ns/shop/sa/web"),
        "{wide}"
    );
    for form in ["json", "yaml"] {
        let all = good(&fixture, &format!("get certs -o {form}"));
        let rows: Vec<api::Certificate> = serde_yaml_ng::from_str(&all).unwrap();
        assert!(rows.iter().all(|row| row.state == api::CertificateState::Valid && !row.serial.is_empty()));
        assert!(!all.to_lowercase().contains("key"), "{all}");
    }
}

#[test]
fn a_dump_is_read_off_line() {
    let fixture = Fixture::start();
    let dump = good(&fixture, "config dump");
    let file = fixture.dir.path().join("dump.json");
    std::fs::write(&file, dump).unwrap();
    let live = good(&fixture, "get workloads");
    let off_line = cli_in(fixture.dir.path(), "get workloads --state-dir /nonexistent --file DIR/dump.json");
    assert_eq!((off_line.exit, off_line.stdout), (Exit::Ok, live));
    let none = cli_in(fixture.dir.path(), "get connections -f DIR/dump.json");
    assert_eq!(none.exit, Exit::Usage);
    std::fs::write(&file, "hello").unwrap();
    let bad = cli_in(fixture.dir.path(), "get workloads -f DIR/dump.json");
    assert_eq!(bad.exit, Exit::BadInput);
    assert!(bad.stderr.starts_with("error: DIR/dump.json is no dump of an agent: "), "{}", bad.stderr);
}

#[test]
fn warnings_exit_79() {
    let fixture = Fixture::start();
    let printed = cli(&fixture, "config warnings -o name");
    assert_eq!((printed.exit, printed.stdout.lines().count()), (Exit::Issues, 1), "{}", printed.stdout);
}

#[test]
fn history_says_what_each_generation_changed_in_one_line() {
    let fixture = Fixture::start();
    insta::assert_snapshot!(good(&fixture, "config history -o wide"), @r#"
    GENERATION   TIME                   WARNINGS   CHANGES                                                         DISCOVERY
    5            2027-01-15T08:00:05Z   1          rolled back to 1: changed Service shop/cart, Service shop/web   7
    4            2027-01-15T08:00:04Z   1          changed Service shop/cart; removed Service shop/web             7
    1            2027-01-15T08:00:01Z   1          added 1 Namespace, 3 Service                                    7
    "#);
    assert_eq!(good(&fixture, "config history -o name"), "5\n4\n1\n");
}

#[test]
fn a_diff_goes_by_object_and_field_and_exits_3_where_there_is_one() {
    let fixture = Fixture::start();
    let printed = cli(&fixture, "config diff 1 4 --color never");
    assert_eq!(printed.exit, Exit::No, "{}", printed.stderr);
    insta::assert_snapshot!(printed.stdout, @r#"
    --- generation 1 (2027-01-15T08:00:01Z)
    +++ generation 4 (2027-01-15T08:00:04Z)
    @@ Service shop/cart changed
    - spec.ports[0].port: 80
    + spec.ports[0].port: 81
    @@ Service shop/web removed
    - kind: Service
    - metadata.name: cart
    - spec.ports[0].port: 80
    "#);
    let printed = cli(&fixture, "config diff -o json");
    assert!(printed.exit == Exit::No && printed.stdout.contains("\"to\": \"80\""), "{}", printed.stdout);
    let same = cli(&fixture, "config diff 1 5");
    assert_eq!((same.exit, same.stdout.as_str()), (Exit::Ok, ""), "{}", same.stderr);
    assert!(same.stderr.starts_with("no difference between generation 1 "), "{}", same.stderr);
    let gone = cli(&fixture, "config diff 2 --color never");
    assert_eq!(gone.exit, Exit::Failed);
    assert!(gone.stderr.starts_with("error: generation 2 isn't kept"), "{}", gone.stderr);
    assert_eq!(cli(&fixture, "config diff 1 4 --source DIR").exit, Exit::Usage);
}

#[test]
fn a_diff_to_a_directory_says_what_would_change() {
    let fixture = Fixture::start();
    let dir = fixture.dir.path().join("objects");
    std::fs::create_dir(&dir).unwrap();
    let yaml = "apiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: shop}\nspec: {ports: [{port: 90}]}\n";
    std::fs::write(dir.join("a.yaml"), yaml).unwrap();
    let printed = cli(&fixture, "config diff --source DIR/objects --color never");
    assert_eq!(printed.exit, Exit::No, "{}", printed.stderr);
    assert!(printed.stdout.contains("+++ DIR/objects\n"), "{}", printed.stdout);
    assert!(printed.stdout.contains("+ spec.ports[0].port: 90\n"), "{}", printed.stdout);
    assert!(printed.stdout.contains("@@ Namespace shop removed\n"), "{}", printed.stdout);
}

#[test]
fn a_rollback_says_what_is_in_force_and_a_refusal_why_not() {
    let fixture = Fixture::start();
    let printed = cli(&fixture, "config rollback 1");
    assert_eq!((printed.exit, printed.stdout.as_str()), (Exit::Ok, ""), "{}", printed.stderr);
    assert!(printed.stderr.starts_with("the configuration objects of generation 1 "), "{}", printed.stderr);
    let printed = cli(&fixture, "config rollback --release");
    assert_eq!(
        (printed.exit, printed.stderr.as_str()),
        (Exit::Ok, "dir:/mesh decides again, with generation 1\n")
    );
    let refused = cli(&fixture, "config rollback 9 --color never");
    assert_eq!((refused.exit, refused.stderr.as_str()), (Exit::Failed, "error: generation 9 isn't kept\n"));
    for line in ["config rollback", "config rollback 1 --release", "config rollback first"] {
        assert_eq!(cli(&fixture, line).exit, Exit::Usage, "{line}");
    }
}

#[test]
fn an_analysis_groups_by_severity_and_exits_79() {
    let fixture = Fixture::start();
    let printed = cli(&fixture, "analyze --color never");
    assert_eq!(printed.exit, Exit::Issues, "{}", printed.stderr);
    assert!(printed.stdout.starts_with("1 warning\n  MESH0107 Gadget shop/odd kind ("), "{}", printed.stdout);
    assert!(
        printed.stdout.contains("    hint: A document's kind is none that the agent reads"),
        "{}",
        printed.stdout
    );
    let names = cli(&fixture, "analyze -o name").stdout;
    assert!(!names.is_empty() && names.lines().all(|line| line.starts_with("MESH0")), "{names}");
    assert!(cli(&fixture, "analyze -o wide").stdout.starts_with("SEVERITY "));
    let json = cli(&fixture, "analyze -o json").stdout;
    assert!(json.contains("\"severity\": \"warning\"") && json.contains("\"code\": \"MESH0107\""), "{json}");
}

#[test]
fn an_analysis_of_a_directory_needs_no_agent() {
    let dir = tempfile::tempdir().unwrap();
    let printed = cli_in(dir.path(), "analyze DIR");
    assert_eq!(
        (printed.exit, printed.stdout.as_str(), printed.stderr.as_str()),
        (Exit::Ok, "", "no issues found\n")
    );
    let text = "kind: [\n---\napiVersion: v1\nkind: Gadget\nmetadata: {name: a}\n";
    std::fs::write(dir.path().join("a.yaml"), text).unwrap();
    let printed = cli_in(dir.path(), "analyze DIR --color never");
    assert_eq!(printed.exit, Exit::Issues);
    let headings: Vec<&str> = printed.stdout.lines().filter(|line| !line.starts_with(' ')).collect();
    assert_eq!(headings, ["1 error", "1 warning"], "{}", printed.stdout);
    std::fs::write(dir.path().join("a.yaml"), "apiVersion: v1\nkind: Gadget\nmetadata: {name: a}\n").unwrap();
    let warning_for =
        |threshold: &str| cli_in(dir.path(), &format!("analyze DIR --failure-threshold {threshold}")).exit;
    assert_eq!([warning_for("error"), warning_for("warning")], [Exit::Ok, Exit::Issues]);
    assert_eq!(cli_in(dir.path(), "analyze DIR/nothing").exit, Exit::BadInput);
    assert_eq!(cli_in(dir.path(), "analyze --state-dir DIR").exit, Exit::Unreachable);
}

#[test]
fn notes_alone_are_shown_and_are_no_issues() {
    let dir = tempfile::tempdir().unwrap();
    let foreign =
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: a, namespace: shop}\n";
    std::fs::write(dir.path().join("a.yaml"), foreign).unwrap();
    let printed = cli_in(dir.path(), "analyze DIR --color never");
    assert_eq!(printed.exit, Exit::Ok, "{}", printed.stdout);
    assert!(printed.stdout.starts_with("1 note\n  MESH0137 "), "{}", printed.stdout);
    assert_eq!(cli_in(dir.path(), "config validate DIR").exit, Exit::Ok);
    assert_eq!(cli_in(dir.path(), "analyze DIR --failure-threshold info").exit, Exit::Issues);
}

#[test]
fn a_service_on_one_page() {
    let fixture = Fixture::start();
    insta::assert_snapshot!(good(&fixture, "describe svc shop/cart"), @r"
    Service:    shop/cart
    Host:       cart.shop.svc.cluster.local
    Addresses:  10.96.0.10

    In short:
      Port 80 (http) goes through the agent for its route, by 1 rule, to 1 of 2 endpoints.

    Ports:
      NAME   PORT   PROTOCOL   DECIDED BY   BALANCER    AFFINITY   AVAILABLE
      http   80     http       port name    peak-ewma   -          1/2

    Endpoints:
      PORT   ADDRESS         STATE                  USED   IN-FLIGHT   LATENCY   POD           NODE     ZONE
      80     10.1.0.2:8080   ready                  yes    0           -         shop/cart-1   node-a   west
      80     10.2.0.2:8080   serving, terminating   no     0           -         shop/cart-2   node-b   -

    Routes:
      PORT   CLIENTS   ROUTE                 RULE   MATCHES        BACKENDS         FILTERS   ROLE
      80     all       HTTPRoute shop/cart   0      PathPrefix /   shop/cart:80 1   -         producer

    Policies:
      PORT   CLIENTS   RULE                          WHAT           HOW                                                           FROM
      80     all       -                             rate limit     100 in 1s, burst 100 for each header x-user, else 429         TrafficPolicy shop/limits
      80     all       -                             retry          1 on 503; back-off 25ms to 250ms                              TrafficPolicy shop/limits
      80     all       -                             retry budget   20 % of the requests of 10s, or 10 in 1s if that is more      TrafficPolicy shop/limits
      80     all       -                             session        cookie s                                                      XBackendTrafficPolicy shop/budget
      80     all       -                             outliers       ejects after 3 5xx in a row, for 30s at first, at most 10 %   DestinationRule shop/cart
      80     all       HTTPRoute shop/cart, rule 0   timeout        3s for the request, tries included                            TrafficPolicy shop/slow

    Pods:
      POD           NODE     ADDRESS            SERVICE-ACCOUNT   VERSION   CAPTURE      REASON
      shop/cart-1   node-a   10.1.0.2,fd00::2   cart              v2        pending      /run/netns/cart-1: not found
      shop/cart-2   node-b   10.2.0.2           cart              v2        other-node   -
    ");
    let missing = cli(&fixture, "describe service cart --color never");
    assert_eq!(missing.exit, Exit::Failed);
    assert!(missing.stderr.starts_with("error: there is no service default/cart\n"), "{}", missing.stderr);
    let file = fixture.dir.path().join("dump.json");
    std::fs::write(&file, good(&fixture, "config dump")).unwrap();
    let off_line =
        cli_in(fixture.dir.path(), "describe svc shop/cart --state-dir /nonexistent -f DIR/dump.json");
    assert_eq!((off_line.exit, off_line.stdout), (Exit::Ok, good(&fixture, "describe svc shop/cart")));
}

#[test]
fn validate_needs_no_agent() {
    let dir = tempfile::tempdir().unwrap();
    let printed = cli_in(dir.path(), "config validate DIR");
    assert_eq!((printed.exit, printed.stderr.as_str()), (Exit::Ok, "0 objects in force, no issues found\n"));
    std::fs::write(dir.path().join("a.yaml"), "kind: [").unwrap();
    let printed = cli_in(dir.path(), "config validate DIR");
    assert_eq!(printed.exit, Exit::Issues);
    assert!(printed.stdout.starts_with("Warning [MESH0105] (DIR/a.yaml"), "{}", printed.stdout);
    assert_eq!(cli_in(dir.path(), "config validate DIR/nothing").exit, Exit::BadInput);
}

#[test]
fn no_agent_is_69_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    for line in ["status", "get svc", "bpf maps", "config dump", "log get", "drain"] {
        let printed = cli_in(dir.path(), &format!("{line} --state-dir DIR --color never"));
        assert_eq!((printed.exit, printed.stdout.as_str()), (Exit::Unreachable, ""), "{line}");
        insta::allow_duplicates! {
            insta::assert_snapshot!(printed.stderr, @r#"
            error: no agent answers at DIR/admin.sock: No such file or directory (os error 2)
            hint: is `mesh-agent run` up, and is --state-dir (MESH_AGENT_STATE_DIR) the one it was given?
            "#);
        }
    }
}

#[test]
fn nonsense_is_64() {
    for line in ["", "nonsense", "get", "get svc -o xml", "get svc --file x --watch", "drain --timeout 3"] {
        let printed = cli_in(Path::new("/"), line);
        assert_eq!((printed.exit, printed.stdout.as_str()), (Exit::Usage, ""), "{line}: {}", printed.stderr);
        assert!(!printed.stderr.is_empty());
    }
}

#[test]
fn drain_is_passed_on() {
    let fixture = Fixture::start();
    let printed = cli(&fixture, "drain");
    assert_eq!((printed.exit, printed.stdout.as_str()), (Exit::Ok, ""));
    assert!(printed.stderr.starts_with("draining"), "{}", printed.stderr);
}

#[test]
fn nothing_is_purged_under_a_running_agent() {
    let fixture = Fixture::start();
    let printed = cli(&fixture, "bpf purge --bpffs-dir DIR/pins --color never");
    assert_eq!((printed.exit, printed.stdout.as_str()), (Exit::Failed, ""));
    insta::assert_snapshot!(printed.stderr, @r#"
    error: an agent still runs: it answers in DIR
    hint: stop it first: `mesh-agent drain --wait`
    "#);
}

#[test]
fn purge_says_what_it_found_and_touches_no_files() {
    let dir = tempfile::tempdir().unwrap();
    let purge = "bpf purge --state-dir DIR --color never --bpffs-dir";
    let printed = cli_in(dir.path(), &format!("{purge} DIR/pins"));
    assert_eq!((printed.exit, printed.stdout.as_str()), (Exit::Ok, ""));
    assert_eq!(printed.stderr, "nothing is pinned in DIR/pins\n");
    let file = dir.path().join("maps/city");
    std::fs::create_dir(dir.path().join("maps")).unwrap();
    std::fs::write(&file, "").unwrap();
    let printed = cli_in(dir.path(), &format!("{purge} DIR"));
    assert_eq!((printed.exit, file.exists()), (Exit::Failed, true));
    insta::assert_snapshot!(printed.stderr, @r#"
    error: the pins in DIR can't be removed: it isn't on a bpffs
    hint: is --bpffs-dir (MESH_AGENT_BPFFS_DIR) the one the agent was given?
    "#);
}

#[test]
fn version_needs_no_agent_either() {
    let dir = tempfile::tempdir().unwrap();
    let printed = cli_in(dir.path(), "version --state-dir DIR");
    assert_eq!(printed.exit, Exit::Ok);
    assert!(printed.stdout.ends_with("agent:  not running\n"), "{}", printed.stdout);
}

#[test]
fn every_shell_gets_its_completion() {
    for shell in ["bash", "zsh", "fish"] {
        let printed = cli_in(Path::new("/"), &format!("completion {shell}"));
        let known = ["connections", "analyze", "rollback", "describe", "route"];
        assert!(printed.exit == Exit::Ok && known.iter().all(|w| printed.stdout.contains(w)), "{shell}");
    }
}
