//! The command line and the HTTP endpoints of a running agent: formats, exit codes, what goes to which output.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::process::Command;

use anyhow::ensure;
use mesh_tests::lab::{Finished, Running, eventually};
use mesh_tests::{PATIENCE, SOON, need_agent, need_shop, shared_shop};
use serde_json::Value;

shared_shop!("cli");

/// A command that needs no agent, with these variables.
fn offline(args: &[&str], env: &[(&str, &str)]) -> Finished {
    let mut command = Command::new(mesh_tests::agent_binary().unwrap());
    command.args(args).envs(env.iter().copied());
    Running::start(command).unwrap().finish(PATIENCE).unwrap()
}

#[test]
fn status_tells_what_runs() {
    let shop = need_shop!();
    let status = shop.agent.cli(&["status"]).unwrap().success().unwrap();
    assert!(status.stdout.contains("node-a"), "{}", status.stdout);
    let status = shop.agent.cli_json(&["status"]).unwrap();
    assert!(status.is_object() && status.to_string().contains("node-a"), "{status}");
}

#[test]
fn every_list_comes_in_every_format() {
    let shop = need_shop!();
    let service = shop.http("listed", "http", 2).unwrap();
    let mut held = shop.client(&service).unwrap();
    held.get("l", "/").unwrap();
    shop.http_under_policy("policed", 1, "timeout: 7s").unwrap();
    for (kind, expected) in [
        ("workloads", "cart-1"),
        ("services", "listed"),
        ("policies", "policed"),
        ("endpoints", "listed"),
        ("connections", "web"),
    ] {
        let table = shop.agent.cli(&["get", kind]).unwrap().success().unwrap().stdout;
        let head = table.lines().next().unwrap();
        assert_eq!(head, head.to_uppercase(), "{kind}: a heading in capitals");
        assert!(table.contains(expected), "{kind}:\n{table}");
        assert!(!table.contains('\u{1b}'), "{kind}: colour without a terminal");
        let wide = shop.agent.cli(&["get", kind, "-o", "wide"]).unwrap().success().unwrap().stdout;
        assert!(wide.lines().next().unwrap().len() >= head.len(), "{kind}");
        let json = shop.agent.cli_json(&["get", kind]).unwrap();
        assert!(json.to_string().contains(expected), "{kind}: {json}");
        let yaml = shop.agent.cli(&["get", kind, "-o", "yaml"]).unwrap().success().unwrap().stdout;
        let yaml: Value = serde_yaml_ng::from_str(&yaml).unwrap();
        assert_eq!(yaml.is_array(), json.is_array(), "{kind}: JSON and YAML differ");
        let names = shop.agent.cli(&["get", kind, "-o", "name"]).unwrap().success().unwrap().stdout;
        assert!(
            names.lines().count() >= 1 && names.lines().all(|line| !line.contains(' ')),
            "{kind}:\n{names}"
        );
    }
}

#[test]
fn what_a_policy_comes_to_is_on_the_services_page_and_in_a_test_of_a_request() {
    let shop = need_shop!();
    let service = shop.http_under_policy("explained", 1, "{timeout: 7s, retry: {attempts: 1}}").unwrap();
    let text = |args: &[&str]| shop.agent.cli(args).unwrap().success().unwrap().stdout;
    let page = text(&["describe", "service", &format!("shop/{}", service.name)]);
    assert!(page.contains("7s for the request, tries included"), "{page}");
    let url = format!("http://{}/", service.name);
    let client = text(&["get", "workloads", "-o", "name"]);
    let client = client.lines().find(|name| name.contains("/web")).unwrap();
    let answer = text(&["route", "test", "--from", &format!("pod/{client}"), &url]);
    let line = answer.lines().find(|line| line.trim_start().starts_with("timeout")).unwrap_or_default();
    assert!(line.contains("7s for the request") && line.contains("TrafficPolicy shop/"), "{answer}");
}

#[test]
fn a_namespace_narrows_a_list() {
    let shop = need_shop!();
    let service = shop.http("narrow", "http", 1).unwrap();
    let there =
        shop.agent.cli(&["get", "services", "-n", "shop", "-o", "name"]).unwrap().success().unwrap().stdout;
    assert!(there.contains(&service.name), "{there}");
    let other = shop.agent.cli(&["get", "services", "-n", "nowhere", "-o", "name"]).unwrap();
    assert!(!other.stdout.contains(&service.name), "{other:?}");
}

#[test]
fn a_watch_shows_what_comes() {
    let shop = need_shop!();
    let mut command = Command::new(mesh_tests::agent_binary().unwrap());
    command.args(["get", "services", "-w"]).env("MESH_AGENT_STATE_DIR", shop.agent.state_dir());
    let watch = Running::start(command).unwrap();
    eventually(SOON, || {
        ensure!(!watch.stdout().is_empty(), "no list yet: {}", watch.stderr());
        Ok(())
    })
    .unwrap();
    shop.http("watched", "http", 1).unwrap();
    eventually(SOON, || {
        ensure!(watch.stdout().contains("watched"), "{}", watch.stdout());
        Ok(())
    })
    .unwrap();
}

#[test]
fn bpf_shows_programs_maps_and_reasons() {
    let shop = need_shop!();
    let programs = shop.agent.cli(&["bpf", "programs"]).unwrap().success().unwrap().stdout;
    for program in ["connect4", "connect6", "getpeername", "sock_ops", "sk_lookup"] {
        // By name or by the hook that it is attached to.
        assert!(programs.contains(program), "{program} is not in\n{programs}");
    }
    let maps = shop.agent.cli(&["bpf", "maps"]).unwrap().success().unwrap().stdout.to_lowercase();
    for map in ["pods", "original_dst", "agent_flows", "services", "endpoints"] {
        assert!(maps.contains(map), "{map} is not in\n{maps}");
    }
    let service = shop.http("reasoned", "http", 1).unwrap();
    assert_eq!(shop.get(&service, "/").unwrap().status(), 200);
    let reasons = shop.agent.cli(&["bpf", "reasons"]).unwrap().success().unwrap().stdout;
    assert!(reasons.contains("captured"), "{reasons}");
    for kind in ["programs", "maps", "reasons"] {
        let json = shop.agent.cli_json(&["bpf", kind]).unwrap();
        assert!(json.is_array() || json.is_object(), "{kind}: {json}");
    }
}

#[test]
fn the_configuration_in_force_is_dumped_and_a_dump_can_be_read_off_line() {
    let shop = need_shop!();
    let service = shop.http("dumped", "http", 1).unwrap();
    let dump = shop.agent.cli_json(&["config", "dump"]).unwrap();
    assert!(dump.to_string().contains("dumped"), "{dump}");
    let file = shop.topology.scratch().join("dump.json");
    std::fs::write(&file, dump.to_string()).unwrap();
    let path = file.to_str().unwrap();
    let live =
        shop.agent.cli(&["get", "services", "-n", "shop", "-o", "name"]).unwrap().success().unwrap().stdout;
    let read = offline(
        &["get", "services", "-n", "shop", "-o", "name", "-f", path],
        &[("MESH_AGENT_STATE_DIR", "/nonexistent")],
    );
    assert_eq!(read.code, 0, "{read:?}");
    assert!(read.stdout.contains(&service.name) && live.contains(&service.name), "{}\n{live}", read.stdout);
}

#[test]
fn a_directory_is_validated_without_an_agent() {
    let shop = need_shop!();
    let good = offline(&["config", "validate", shop.topology.mesh().path().to_str().unwrap()], &[]);
    assert_eq!(good.code, 0, "{good:?}");
    let dir = shop.topology.scratch().join("broken");
    std::fs::create_dir_all(&dir).unwrap();
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: n}\nspec: {clusterIP: 10.0.0.1, ports: [{port: 99999}]}\n";
    std::fs::write(dir.join("10-service.yaml"), service).unwrap();
    let bad = offline(&["config", "validate", dir.to_str().unwrap()], &[]);
    assert!([65, 79].contains(&bad.code), "{bad:?}");
    let said = format!("{}{}", bad.stdout, bad.stderr);
    for part in ["10-service.yaml", "n/s", "port"] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
}

#[test]
fn the_log_filter_is_read_and_changed_at_run_time() {
    let shop = need_shop!();
    let before = shop.agent.cli(&["log", "get"]).unwrap().success().unwrap().stdout;
    assert!(before.contains("info"), "{before}");
    shop.agent.cli(&["log", "set", "info,mesh_agent=debug"]).unwrap().success().unwrap();
    let after = shop.agent.cli(&["log", "get"]).unwrap().success().unwrap().stdout;
    assert!(after.contains("mesh_agent=debug"), "{after}");
    let bad = shop.agent.cli(&["log", "set", "mesh_agent=loudly"]).unwrap();
    assert!(bad.code != 0 && !bad.stderr.is_empty(), "{bad:?}");
    shop.agent.cli(&["log", "set", before.trim()]).unwrap().success().unwrap();
}

#[test]
fn exit_codes_are_as_documented() {
    let cases: [(&[&str], i32); 4] = [
        (&["version"], 0),
        (&["frobnicate"], 64),
        (&["get", "services", "--no-such-flag"], 64),
        (&["config", "validate", "/no/such/directory"], 65),
    ];
    if mesh_tests::agent_options().is_none() {
        return;
    }
    for (args, code) in cases {
        let output = offline(args, &[]);
        assert_eq!(output.code, code, "{args:?}: {output:?}");
        assert!(code == 0 || (output.stdout.is_empty() && !output.stderr.is_empty()), "{args:?}: {output:?}");
    }
    // A value is judged by where it came from.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    let run = |text: &str, flags: &[&str], env: &[(&str, &str)]| {
        std::fs::write(&file, text).unwrap();
        let args = ["run", "--source", "dir:/x", "--config", file.to_str().unwrap()];
        offline(&[&args, flags].concat(), env).code
    };
    assert_eq!(run("workers: none\nfailMode: ajar\ninboundPort: 15001\n", &[], &[]), 65);
    assert_eq!(run("workers: [1]\n", &[], &[]), 65);
    assert_eq!(run("", &["--workers", "none"], &[]), 64);
    assert_eq!(run("", &[], &[("MESH_AGENT_WORKERS", "none")]), 64);
    assert_eq!(run("failMode: ajar\n", &["--workers", "none"], &[]), 64);
    let away = offline(&["status"], &[("MESH_AGENT_STATE_DIR", "/nonexistent")]);
    assert_eq!(away.code, 69, "{away:?}");
    assert!(away.stderr.contains("/nonexistent"), "the message names where it looked: {}", away.stderr);
}

/// A copy of the binary that every user may run, in a directory that every user may enter.
fn for_everybody() -> (tempfile::TempDir, std::path::PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let binary = dir.path().join("mesh-agent");
    std::fs::copy(mesh_tests::agent_binary().unwrap(), &binary).unwrap();
    for path in [dir.path(), &binary] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    (dir, binary)
}

#[test]
fn who_may_not_run_it_is_told_by_exit_code_77() {
    use std::os::unix::process::CommandExt;
    if mesh_tests::agent_options().is_none() {
        return;
    }
    let (_dir, binary) = for_everybody();
    let own = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(own.path(), Some(65534), Some(65534)).unwrap();
    let state = own.path().join("state").display().to_string();
    let pins = "/sys/fs/bpf/mesh-agent-of-nobody";
    let run = |state: &str| {
        let args = ["run", "--source", "dir:/x", "--metrics-address", "127.0.0.1:0", "--bpffs-dir", pins];
        [&args[..], &["--state-dir", state]].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    // Stopped by the state directory; by the kernel's programs; by what the stage is built of.
    for args in [run("/run/mesh-agent-of-nobody"), run(&state), vec!["demo".to_owned(), "--once".to_owned()]]
    {
        let mut command = Command::new(&binary);
        command.args(&args).uid(65534).gid(65534).current_dir("/");
        let ended = Running::start(command).unwrap().finish(PATIENCE).unwrap();
        assert_eq!(ended.code, 77, "{args:?}: {ended:?}");
        assert!(ended.stderr.contains("error:"), "{ended:?}");
    }
}

#[test]
fn a_kernel_that_is_too_old_or_has_no_btf_is_refused_by_name() {
    let _options = need_agent!();
    let (dir, binary) = for_everybody();
    let release = dir.path().join("osrelease");
    std::fs::write(&release, "5.15.0-91-generic\n").unwrap();
    let state = dir.path().join("state");
    let bpffs = format!("/sys/fs/bpf/mesh-too-old-{}", std::process::id());
    let cases = [
        (format!("mount --bind {} /proc/sys/kernel/osrelease", release.display()), ["5.15.0-91", "6.1"]),
        (
            "mount -t tmpfs none /sys/kernel/btf".to_owned(),
            ["/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF"],
        ),
    ];
    for (pretend, said) in cases {
        let script = format!(
            "{pretend} && exec {} run --source dir:/x --metrics-address 127.0.0.1:0 --state-dir {} --bpffs-dir {bpffs}",
            binary.display(),
            state.display()
        );
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &script]);
        let ended = Running::start(command).unwrap().finish(PATIENCE).unwrap();
        assert_eq!(ended.code, 1, "{ended:?}");
        assert!(said.iter().all(|part| ended.stderr.contains(part)), "{said:?} in {}", ended.stderr);
    }
    assert!(!std::path::Path::new(&bpffs).exists());
}

#[test]
fn systemd_is_told_of_its_readiness_and_of_its_end() {
    use mesh_tests::shop::Shop;
    use nix::sys::signal::Signal;
    let options = need_agent!();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify.sock");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let shop = Shop::start("notified", options.env("NOTIFY_SOCKET", path.display().to_string())).unwrap();
    let told = || {
        let mut word = [0; 64];
        let length = socket.recv(&mut word).unwrap();
        String::from_utf8(word[..length].to_vec()).unwrap()
    };
    assert_eq!(told(), "READY=1");
    shop.agent.signal(Signal::SIGTERM);
    assert_eq!(told(), "STOPPING=1");
}

#[test]
fn version_and_completion_are_there() {
    if mesh_tests::agent_options().is_none() {
        return;
    }
    let version = offline(&["version"], &[]).success().unwrap().stdout;
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    for shell in ["bash", "zsh", "fish"] {
        let script = offline(&["completion", shell], &[]).success().unwrap().stdout;
        assert!(script.contains("mesh-agent"), "{shell}");
    }
}

#[test]
fn check_names_each_thing_it_checked() {
    let _options = need_agent!();
    let checked = offline(&["check", "-o", "json"], &[]);
    assert!([0, 1, 79].contains(&checked.code), "{checked:?}");
    let json: Value = serde_json::from_str(&checked.stdout).unwrap();
    let text = json.to_string().to_lowercase();
    for thing in ["kernel", "btf", "cgroup", "bpffs", "cap", "port", "sk_lookup"] {
        assert!(text.contains(thing), "{thing} is not in {json}");
    }
    let table = offline(&["check"], &[]);
    assert!(table.stdout.lines().count() >= 7, "{}", table.stdout);
}

#[test]
fn probes_and_both_metric_paths_answer() {
    let shop = need_shop!();
    for path in ["/livez", "/readyz"] {
        assert_eq!(shop.agent.get(path).unwrap().0, 200, "{path}");
    }
    for path in ["/metrics", "/stats/prometheus"] {
        let (status, text) = shop.agent.get(path).unwrap();
        assert_eq!(status, 200, "{path}");
        assert!(text.contains("# TYPE mesh_agent_build_info gauge"), "{path}");
    }
    assert_eq!(shop.agent.get("/nothing").unwrap().0, 404);
}

#[test]
fn the_admin_socket_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let shop = need_shop!();
    let socket = std::fs::metadata(shop.agent.state_dir().join("admin.sock")).unwrap();
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_connection_is_listed_while_it_lasts() {
    let shop = need_shop!();
    let service = shop.http("held", "tcp", 1).unwrap();
    let mut client = shop.client(&service).unwrap();
    client.get("h", "/").unwrap();
    let address = service.at().to_string();
    let listed = shop.agent.cli_json(&["get", "connections"]).unwrap().to_string();
    assert!(listed.contains(&address), "{address} is not in {listed}");
    drop(client);
    eventually(SOON, || {
        let listed = shop.agent.cli_json(&["get", "connections"])?.to_string();
        ensure!(!listed.contains(&address), "{listed}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn configuration_problems_are_warnings_by_file_object_and_field() {
    let shop = need_shop!();
    let mesh = shop.topology.mesh();
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: later, namespace: shop}\nspec: {}\n";
    mesh.write_text("90-route.yaml", route).unwrap();
    mesh.write_text("91-broken.yaml", "kind: [unclosed\n").unwrap();
    eventually(SOON, || {
        let log = shop.agent.log();
        ensure!(log.contains("90-route.yaml") && log.contains("shop/later"), "no word of the route:\n{log}");
        ensure!(log.contains("91-broken.yaml"), "no word of the broken file:\n{log}");
        let metrics = shop.agent.metrics()?;
        ensure!(metrics.sum("mesh_agent_config_warnings", &[]) >= 2.0);
        Ok(())
    })
    .unwrap();
    let service = shop.http("stillserving", "http", 1).unwrap();
    assert_eq!(shop.get(&service, "/").unwrap().status(), 200);
    mesh.remove("90-route.yaml").unwrap();
    mesh.remove("91-broken.yaml").unwrap();
}
