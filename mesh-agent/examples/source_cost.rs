//! What configuration costs: initial load, and one endpoint changing ten times a second.
//!
//! `cargo run --release --example source_cost [SERVICES] [ENDPOINTS] [one|many]`; measures the source's own threads only.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mesh_agent::model::build::BuildOptions;
use mesh_agent::source::{Published, Source, start};

const CHANGES: u32 = 50;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let services = args.next().map_or(Ok(1000), |text| text.parse())?;
    let endpoints = args.next().map_or(Ok(10), |text| text.parse())?;
    let one_file = args.next().is_none_or(|text| text == "one");

    let dir = std::env::temp_dir().join(format!("mesh-source-cost-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let outcome = measure(&dir, services, endpoints, one_file);
    std::fs::remove_dir_all(&dir)?;
    outcome
}

fn measure(dir: &Path, services: u32, endpoints: u32, one_file: bool) -> Result<()> {
    let texts: Vec<String> = (0..services).map(|i| service(i, endpoints, true)).collect();
    if one_file {
        std::fs::write(dir.join("all.yaml"), texts.concat())?;
    } else {
        for (i, text) in texts.iter().enumerate() {
            std::fs::write(dir.join(format!("{i}.yaml")), text)?;
        }
    }
    let before = resident_kb()?;
    let started = Instant::now();
    let published = Published::new();
    let _thread = start(Source::Dir(dir.to_owned()), BuildOptions::default(), published.clone())?;
    wait(&published, 1)?;
    let bytes: usize = texts.iter().map(String::len).sum();
    println!(
        "{services} services x {endpoints} endpoints, {} kB in {}",
        bytes / 1000,
        if one_file { "one file" } else { "one file each" }
    );
    println!(
        "initial load: {:.0} ms, {:.1} MB resident",
        started.elapsed().as_secs_f64() * 1e3,
        (resident_kb()? - before) as f64 / 1e3
    );
    println!("warnings: {}", published.warnings.load().len());
    // A file that has just been written is read again by the next slow scan; that is not the change's cost.
    std::thread::sleep(Duration::from_secs(7));

    let changed = (services / 2) as usize;
    let cpu = source_cpu()?;
    let mut slowest = Duration::ZERO;
    let mut total = Duration::ZERO;
    for i in 0..CHANGES {
        let ready = i % 2 == 1;
        let text = service(services / 2, endpoints, ready);
        let (name, text) = if one_file {
            let mut all = texts.clone();
            all[changed] = text;
            ("all.yaml".to_owned(), all.concat())
        } else {
            (format!("{changed}.yaml"), text)
        };
        std::fs::write(dir.join(".new"), text)?;
        let started = Instant::now();
        std::fs::rename(dir.join(".new"), dir.join(name))?;
        wait(&published, u64::from(i) + 2)?;
        slowest = slowest.max(started.elapsed());
        total += started.elapsed();
        std::thread::sleep(Duration::from_millis(100).saturating_sub(started.elapsed()));
    }
    let cpu = source_cpu()? - cpu;
    println!("CPU per change: {:.2} ms", cpu.as_secs_f64() * 1e3 / f64::from(CHANGES));
    println!(
        "in force after: mean {:.1} ms, slowest {:.1} ms",
        (total / CHANGES).as_secs_f64() * 1e3,
        slowest.as_secs_f64() * 1e3
    );
    println!("resident at the end: {:.1} MB", (resident_kb()? - before) as f64 / 1e3);
    Ok(())
}

fn service(i: u32, endpoints: u32, first_ready: bool) -> String {
    let mut text = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: s{i}\n  namespace: shop\nspec:\n  clusterIP: 10.96.{}.{}\n  selector:\n    app: s{i}\n  ports:\n  - name: http\n    port: 80\n    targetPort: 8080\n    protocol: TCP\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: s{i}-1\n  namespace: shop\n  labels:\n    kubernetes.io/service-name: s{i}\naddressType: IPv4\nports:\n- name: http\n  port: 8080\n  protocol: TCP\nendpoints:\n",
        i / 250,
        i % 250 + 1
    );
    for e in 0..endpoints {
        let n = i * endpoints + e;
        let ready = e > 0 || first_ready;
        let _ = write!(
            text,
            "- addresses:\n  - 10.{}.{}.{}\n  conditions:\n    ready: {ready}\n    serving: {ready}\n    terminating: false\n  nodeName: node-{}\n  zone: zone-a\n  targetRef:\n    kind: Pod\n    namespace: shop\n    name: s{i}-{e}\n",
            128 + n / 62500,
            n / 250 % 250,
            n % 250 + 1,
            e % 10
        );
    }
    text
}

fn wait(published: &Published, generation: u64) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while *published.changed.borrow() < generation {
        anyhow::ensure!(Instant::now() < deadline, "generation {generation} never came");
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// Processor time of every thread but this one: the source's and the notification's.
fn source_cpu() -> Result<Duration> {
    let main = std::process::id().to_string();
    let mut total = 0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let task = task?;
        if task.file_name().to_string_lossy() != main {
            let text = std::fs::read_to_string(task.path().join("schedstat"))?;
            total += text.split(' ').next().context("schedstat")?.parse::<u64>()?;
        }
    }
    Ok(Duration::from_nanos(total))
}

fn resident_kb() -> Result<i64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
