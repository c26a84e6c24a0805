//! Precedence, complaints and every value's own rules.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::telemetry::{AccessLogMode, Format, LabelProfile, LogOptions, Output};
use std::collections::HashMap;

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    run: RunArgs,
}

struct Case {
    flags: Vec<String>,
    env: HashMap<String, String>,
    dir: tempfile::TempDir,
}

impl Case {
    fn new(flags: &[&str], env: &[(&str, &str)], file: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
        if let Some(text) = file {
            let path = dir.path().join("config.yaml");
            std::fs::write(&path, text).unwrap();
            flags.extend(["--config".into(), path.display().to_string()]);
        }
        let env = env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Self { flags, env, dir }
    }

    fn resolve(&self) -> Result<Settings, String> {
        let cli = Cli::try_parse_from(std::iter::once("x".to_owned()).chain(self.flags.clone())).unwrap();
        Settings::resolve_with(&cli.run, |name| self.env.get(name).cloned())
            .map_err(|error| error.to_string().replace(&self.dir.path().display().to_string(), "DIR"))
    }
}

fn ok(flags: &[&str], env: &[(&str, &str)], file: Option<&str>) -> Settings {
    let mut flags = flags.to_vec();
    if !flags.contains(&"--source") {
        flags.extend(["--source", "dir:/objects"]);
    }
    Case::new(&flags, env, file).resolve().unwrap()
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let settings = ok(&["--node-name", "node-a"], &[], Some(""));
    assert_eq!(settings.source, Source::Dir("/objects".into()));
    assert_eq!(settings.state_dir, PathBuf::from("/run/mesh-agent"));
    assert_eq!(settings.bpffs_dir, PathBuf::from("/sys/fs/bpf/mesh-agent"));
    assert_eq!(settings.cgroup, None);
    assert_eq!(settings.metrics_address, "0.0.0.0:15020".parse().unwrap());
    assert!((1..=4).contains(&settings.workers));
    assert_eq!(settings.fail_mode, FailMode::Closed);
    assert_eq!(settings.outbound_traffic_policy, OutboundTrafficPolicy::AllowAny);
    assert_eq!(settings.same_node, SameNode::Direct);
    assert_eq!(settings.forward_client_cert_details, ForwardClientCert::Sanitize);
    assert_eq!(settings.log_options(), LogOptions::default());
    assert_eq!(settings.redact_headers, Vec::<String>::new());
    assert_eq!((settings.trust_domain.as_str(), settings.ca), ("cluster.local", Ca::Dev));
    assert_eq!(settings.trust_domain_aliases, Vec::<String>::new());
    assert_eq!(settings.certificate_lifetime, Duration::from_secs(86400));
    assert_eq!(settings.access_log, AccessLogMode::On(Format::Text, Output::Stdout));
    assert_eq!(settings.metrics_labels, LabelProfile::Full);
    assert_eq!(settings.drain_time, Duration::from_secs(25));
    assert_eq!(settings.log, "info");
    assert_eq!((settings.outbound_port, settings.inbound_port, settings.hbone_port), (15001, 15006, 15008));
}

#[test]
fn a_flag_beats_the_environment_beats_the_file() {
    fn check(flag: Option<&str>, env: Option<&str>, file: Option<&str>, want: &str) {
        let flags: Vec<&str> = flag.iter().flat_map(|value| ["--node-name", value]).collect();
        let env: Vec<(&str, &str)> = env.iter().map(|value| ("MESH_AGENT_NODE_NAME", *value)).collect();
        let file = file.map(|value| format!("nodeName: {value}\n")).unwrap_or_default();
        assert_eq!(ok(&flags, &env, Some(&file)).node_name, want);
    }
    check(Some("flag"), Some("env"), Some("file"), "flag");
    check(None, Some("env"), Some("file"), "env");
    check(None, Some(""), Some("file"), "file");
    check(None, None, Some("file"), "file");
    check(None, None, Some("5"), "5");
}

#[test]
fn every_flag_is_a_key_and_a_variable() {
    use clap::CommandFactory;
    for argument in
        Cli::command().get_arguments().filter(|a| !["config", "help"].contains(&a.get_id().as_str()))
    {
        let flag = argument.get_long().unwrap();
        let mut key = String::new();
        let mut upper = false;
        for c in flag.chars() {
            if c == '-' {
                upper = true;
            } else {
                key.push(if std::mem::take(&mut upper) { c.to_ascii_uppercase() } else { c });
            }
        }
        assert_eq!(layers::flag(&key), format!("--{flag}"));
        // No value of any setting begins with a question mark.
        let file = format!("{key}: \"?\"");
        let error = Case::new(&[], &[], Some(&file)).resolve().unwrap_err();
        assert!(error.contains(&format!("{key} in DIR/config.yaml: ")), "{error}");
        let variable = layers::variable::<RunArgs>(&key);
        let error = Case::new(&[], &[(&variable, "?")], Some("")).resolve().unwrap_err();
        assert!(error.contains(&format!("{variable} (environment): ")), "{error}");
        let error = Case::new(&[&format!("--{flag}"), "?"], &[], Some("")).resolve().unwrap_err();
        assert!(error.contains(&format!("--{flag}: ")), "{error}");
    }
}

#[test]
fn complaints_name_the_key_its_origin_and_what_was_expected() {
    fn check(flags: &[&str], env: &[(&str, &str)], file: &str, want: &[&str]) {
        let error = Case::new(flags, env, Some(file)).resolve().unwrap_err();
        for part in want {
            assert!(error.contains(part), "{error:?} lacks {part:?}");
        }
    }
    let dir = ["--source", "dir:/x"];
    check(&dir, &[], "nodName: a\n", &["DIR/config.yaml: ", "unknown field `nodName`", "`nodeName`"]);
    check(&dir, &[], "config: a\n", &["unknown field `config`"]);
    check(&dir, &[], "workers: [1]\n", &["workers", "a single value"]);
    check(&dir, &[], "workers: 0\n", &["workers in DIR/config.yaml: \"0\" isn't a number of threads"]);
    check(&dir, &[("MESH_AGENT_WORKERS", "many")], "", &["MESH_AGENT_WORKERS (environment): \"many\""]);
    let missing = Case::new(&[], &[], Some("")).resolve().unwrap_err();
    assert!(missing.starts_with("--source: no source is given"), "{missing}");
    check(&["--source", "file:/x"], &[], "", &["expected dir:PATH or kube"]);
    check(
        &dir,
        &[],
        "sameNode: tls\nca: istio:http://ca:80\n",
        &["sameNode in DIR", "direct or mtls", "ca in DIR", "expected https://HOST:PORT"],
    );
    check(&dir, &[], "ca: vault\n", &["expected dev, files:DIR"]);
    check(
        &dir,
        &[],
        "trustDomainAliases: [a, B]\n",
        &["trustDomainAliases in DIR", "\"B\" isn't a trust domain"],
    );
    check(&dir, &[], "certificateLifetime: 5s\n", &["certificateLifetime in DIR", "at least 10s"]);
    check(&dir, &[], "log: \"a=b=c=d\"\n", &["log in DIR", "isn't a log filter"]);
    check(&dir, &[], "inboundPort: 15001\n", &["inboundPort in DIR", "15001 is outboundPort too"]);
}

#[test]
fn a_named_file_must_be_there_and_the_default_one_need_not() {
    let case = Case::new(&["--source", "dir:/x", "--config", "/nonexistent/c.yaml"], &[], None);
    assert_eq!(case.resolve().unwrap_err(), "can't read the configuration file /nonexistent/c.yaml");
    let case = Case::new(&["--source", "dir:/x"], &[("MESH_AGENT_CONFIG", "/nonexistent/d.yaml")], None);
    assert_eq!(case.resolve().unwrap_err(), "can't read the configuration file /nonexistent/d.yaml");
}

#[test]
fn values_are_read_by_their_own_rules() {
    fn check<T: PartialEq + std::fmt::Debug>(got: Result<T, String>, want: Option<T>) {
        assert_eq!(got.as_ref().ok(), want.as_ref(), "{got:?}");
    }
    for (text, want) in
        [("25s", 25_000), ("500ms", 500), ("1m", 60_000), ("1.5s", 1500), ("0s", 0), ("24h", 86_400_000)]
    {
        check(duration(text), Some(Duration::from_millis(want)));
    }
    for text in ["", "25", "s", "-1s", "1d", "25 s", "1e3s", "25h", "1..2s", ".s"] {
        check(duration(text), None);
    }
    check(
        value::access_log("json:/var/log/a:b"),
        Some(AccessLogMode::On(Format::Json, Output::File("/var/log/a:b".into()))),
    );
    check(value::access_log("off"), Some(AccessLogMode::Off));
    check(value::access_log("off:/x"), None);
    check(value::access_log("json:"), None);
    check(value::access_log("xml"), None);
    check(value::ca("files:/etc/ca"), Some(Ca::Files("/etc/ca".into())));
    check(
        value::ca("istio:https://istiod.istio-system.svc:15012"),
        Some(Ca::Istio("istiod.istio-system.svc:15012".into())),
    );
    check(value::ca("istio:https://[fd00::1]:15012/"), Some(Ca::Istio("[fd00::1]:15012".into())));
    check(value::ca("spiffe:/run/spire/agent.sock"), Some(Ca::Spiffe("/run/spire/agent.sock".into())));
    check(value::ca("spiffe:unix:///run/spire/agent.sock"), Some(Ca::Spiffe("/run/spire/agent.sock".into())));
    for text in [
        "dev:x",
        "files:",
        "files:x",
        "istio:",
        "istio:https://ca",
        "istio:https://ca:0",
        "istio:https://me@ca:1",
        "istio:https://ca:1/x",
        "spiffe:x",
    ] {
        check(value::ca(text), None);
    }
    check(value::trust_domains("a, b"), Some(vec!["a".into(), "b".into()]));
    check(value::trust_domain("td.example"), Some("td.example".into()));
    check(value::trust_domain("Td"), None);
    check(value::trust_domain("a/b"), None);
    check(value::address("[::1]:80"), Some("[::1]:80".parse().unwrap()));
    check(value::address("15020"), None);
    check(value::absolute("run/x"), None);
}

#[test]
fn aliases_are_a_list_or_a_line() {
    let wanted = vec!["old.example".to_owned(), "older.example".to_owned()];
    assert_eq!(
        ok(&[], &[], Some("trustDomainAliases: [old.example, older.example]")).trust_domain_aliases,
        wanted
    );
    assert_eq!(
        ok(&[], &[], Some("trustDomainAliases: old.example,older.example")).trust_domain_aliases,
        wanted
    );
    assert_eq!(
        ok(&["--trust-domain-aliases", "old.example,older.example"], &[], Some("")).trust_domain_aliases,
        wanted
    );
}

#[test]
fn metrics_have_lean_labels_where_it_is_said() {
    assert_eq!(ok(&[], &[], Some("metricsLabels: lean\n")).metrics_labels, LabelProfile::Lean);
    assert!(value::metrics_labels("some").is_err());
}

#[test]
fn access_log_may_be_off_in_a_file_without_quotes() {
    assert_eq!(ok(&[], &[], Some("accessLog: off\nworkers: 2\n")).access_log, AccessLogMode::Off);
}

#[test]
fn the_access_log_is_told_what_its_lines_are_and_what_for() {
    let file = "accessLog: template:/var/log/a\naccessLogTemplate: '%PROTOCOL% %DURATION%'\n\
                accessLogFilter: status>=400,flagged\naccessLogSample: 0.5\naccessLogRotate: 10Mi:3\n\
                redactHeaders: [X-Plan]\n";
    let dumped = serde_json::to_value(ok(&[], &[], Some(file))).unwrap();
    for (key, value) in [
        ("accessLogTemplate", serde_json::json!("%PROTOCOL% %DURATION%")),
        ("accessLogFilter", serde_json::json!("status>=400,flagged")),
        ("accessLogSample", serde_json::json!(0.5)),
        ("accessLogRotate", serde_json::json!("10Mi:3")),
        ("redactHeaders", serde_json::json!(["x-plan"])),
    ] {
        assert_eq!(dumped[key], value, "{key}");
    }
    fn check(flags: &[&str], want: &str) {
        let error = Case::new(flags, &[], Some("")).resolve().unwrap_err();
        assert!(error.contains(want), "{error}");
    }
    check(&["--access-log", "template"], "--access-log-template: is needed with");
    check(
        &["--access-log-template", "%PROTOCOL%"],
        "--access-log-template: is for accessLog: template alone",
    );
    let template = |text| ["--access-log", "template", "--access-log-template", text];
    check(
        &template("%NOTHING%"),
        "--access-log-template: %NOTHING% of the access-log template isn't known; there are",
    );
    check(&template("%REQ(AUTHORIZATION)%"), "authorization is a secret and is never logged");
    let secret = [&template("%REQ(X-PLAN)%")[..], &["--redact-headers", "x-plan"]].concat();
    check(&secret, "x-plan is a secret");
    check(&["--access-log-filter", "bytes>=1"], "--access-log-filter: \"bytes>=1\" is no filter");
    check(&["--access-log-sample", "2"], "--access-log-sample: \"2\" is no share");
    check(&["--access-log-rotate", "1Mi"], "--access-log-rotate: \"1Mi\" is no rotation");
    check(&["--access-log-rotate", "1Mi:2"], "--access-log-rotate: is for an access log in a file");
    check(&["--redact-headers", "a b"], "isn't the name of a header");
}

#[test]
fn an_access_log_by_otlp_goes_to_the_collector_of_traces() {
    let file = "accessLog: otlp\notlpEndpoint: http://collector:4317\naccessLogSample: 0.5\n";
    let settings = ok(&[], &[], Some(file));
    assert_eq!(settings.access_log, AccessLogMode::Otlp);
    let options = settings.log_options();
    assert_eq!(options.collector, settings.tracing().map(|tracing| tracing.remote));
    assert!(options.collector.is_some() && options.share == "0.5".parse().unwrap());
    fn check(flags: &[&str], want: &str) {
        let flags = [&["--access-log", "otlp"], flags].concat();
        let error = Case::new(&flags, &[], Some("")).resolve().unwrap_err();
        assert!(error.contains(want), "{error}");
    }
    check(&[], "--access-log: otlp needs a collector: otlpEndpoint");
    let to = ["--otlp-endpoint", "http://collector"];
    check(&[&to[..], &["--access-log-rotate", "1Mi:2"]].concat(), "is for an access log in a file");
    check(&[&to[..], &["--access-log-template", "%PROTOCOL%"]].concat(), "is for accessLog: template alone");
}

#[test]
fn settings_dump_as_the_keys_of_the_file() {
    let settings = ok(&["--drain-time", "1500ms"], &[], Some("nodeName: a"));
    let dumped = serde_json::to_value(settings).unwrap();
    assert_eq!(dumped["drainTime"], "1500ms");
    assert_eq!(dumped["source"], "dir:/objects");
    assert_eq!(dumped["outboundTrafficPolicy"], "allowAny");
}

#[test]
fn in_a_cluster_the_source_is_its_api_server_unless_another_is_given() {
    fn check(flags: &[&str], env: &[(&str, &str)], want: Source) {
        let settings = Case::new(flags, env, Some("")).resolve().unwrap();
        assert_eq!(settings.source, want, "{flags:?} {env:?}");
        assert_eq!(settings.build_options().netns_annotation, want != Source::Kube);
    }
    let cluster = ("KUBERNETES_SERVICE_HOST", "10.0.0.1");
    check(&[], &[cluster], Source::Kube);
    check(&["--source", "kube"], &[], Source::Kube);
    check(&[], &[("MESH_AGENT_SOURCE", "kube")], Source::Kube);
    check(&["--source", "dir:/x"], &[cluster], Source::Dir("/x".into()));
}

#[test]
fn nothing_is_traced_without_a_collector_and_what_is_wrong_with_one_is_told() {
    assert!(ok(&[], &[], None).tracing().is_none());
    let file = "otlpEndpoint: https://collector:4318\notlpProtocol: http\notlpCa: /ca.pem\notlpTimeout: 2s\n\
                traceSampling: 0.5\ntraceLimit: 7\ntraceKeep: errors,1500ms\n";
    let settings = ok(&[], &[], Some(file));
    let tracing = settings.tracing().unwrap();
    let remote = &tracing.remote;
    assert_eq!((remote.endpoint.port(remote.protocol), tracing.limit), (4318, 7));
    assert_eq!((remote.timeout, tracing.ratio.to_string()), (Duration::from_secs(2), "0.5".into()));
    assert_eq!(tracing.keep.slow, Some(Duration::from_millis(1500)));
    let shown = serde_json::to_value(&settings).unwrap();
    assert_eq!(shown["otlpEndpoint"], "https://collector:4318");
    assert_eq!((&shown["traceKeep"], &shown["otlpProtocol"]), (&"errors,1500ms".into(), &"http".into()));
    for (line, want) in [
        ("otlpEndpoint: collector:4317", "isn't a collector's address"),
        ("otlpEndpoint: http://me:secret@collector", "isn't a collector's address"),
        ("otlpProtocol: thrift", "expected grpc or http"),
        ("otlpCa: /ca.pem", "without otlpEndpoint: https://"),
        ("otlpTimeout: 10ms", "100ms to 60s"),
        ("traceSampling: 2", "from 0 to 1"),
        ("traceLimit: -1", "0 or more"),
        ("traceKeep: errors,fast", "errors nor a duration"),
    ] {
        let error = Case::new(&["--source", "dir:/x"], &[], Some(line)).resolve().unwrap_err();
        assert!(error.contains(want) && !error.contains("secret"), "{line}: {error}");
    }
}
