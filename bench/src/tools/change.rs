//! Changes one endpoint of a service again and again, and asks the service until the new endpoint answers.
//!
//! The time is from before the file's rename to the answer: watching, reading, validating, building, publishing and the
//! next request's choice are all in it. With `--unwatched` it only changes, so that the agent's CPU is that of changes.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep_until, timeout};

use super::dial::REQUEST;
use super::{block_on, serve};

/// After this a change counts as never in force.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
pub struct Args {
    /// The service's address and port
    to: SocketAddr,
    /// File that holds its slice and nothing else
    #[arg(long)]
    file: PathBuf,
    /// Its name; the namespace is `bench`
    #[arg(long)]
    service: String,
    /// Addresses of the real endpoints: all but one are in the slice, in turn
    #[arg(long, value_delimiter = ',')]
    addresses: Vec<Ipv4Addr>,
    /// How many changes
    #[arg(long)]
    changes: usize,
    /// Milliseconds from one change to the next
    #[arg(long, default_value_t = 100)]
    interval: u64,
    /// Don't ask the service
    #[arg(long)]
    unwatched: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let mut micros = block_on(changes(args))?;
    micros.sort_unstable();
    let at = |part: f64| micros.get(((micros.len() - 1) as f64 * part) as usize).copied().unwrap_or(0);
    if !micros.is_empty() {
        println!("done {} p50 {} p99 {} max {}", micros.len(), at(0.5), at(0.99), at(1.0));
    }
    Ok(())
}

async fn changes(args: &Args) -> Result<Vec<u128>> {
    let mut micros = Vec::new();
    let mut spare = args.addresses.len() - 1;
    let mut next = tokio::time::Instant::now();
    let mut stream = if args.unwatched { None } else { Some(TcpStream::connect(args.to).await?) };
    for change in 0..args.changes {
        sleep_until(next).await;
        next += Duration::from_millis(args.interval);
        let joins = args.addresses[spare];
        // The next to leave is another one each time.
        spare = change % (args.addresses.len() - 1);
        if args.addresses[spare] == joins {
            spare = args.addresses.len() - 1;
        }
        let begin = Instant::now();
        write(args, args.addresses[spare])?;
        if let Some(stream) = &mut stream {
            timeout(PATIENCE, answered_by(stream, joins)).await.with_context(|| {
                format!("change {change}: {joins} joined and had not answered after {PATIENCE:?}")
            })??;
            micros.push(begin.elapsed().as_micros());
        }
    }
    Ok(micros)
}

/// The slice with every address but one, put in place by a rename.
fn write(args: &Args, without: Ipv4Addr) -> Result<()> {
    let service = &args.service;
    let mut text = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {service}-1\n  namespace: bench\n  \
         labels: {{kubernetes.io/service-name: {service}}}\naddressType: IPv4\n\
         ports: [{{name: http, port: {}, protocol: TCP}}]\nendpoints:\n",
        args.to.port()
    );
    for address in args.addresses.iter().filter(|address| **address != without) {
        text.push_str(&format!("- {{addresses: [{address}], conditions: {{ready: true}}}}\n"));
    }
    let hidden = args.file.with_file_name(".change");
    fs::write(&hidden, text)?;
    Ok(fs::rename(hidden, &args.file)?)
}

async fn answered_by(stream: &mut TcpStream, address: Ipv4Addr) -> Result<()> {
    let expected = format!("\r\n\r\n{address}\n");
    let (mut buffer, mut have) = ([0_u8; 4096], 0);
    loop {
        stream.write_all(REQUEST).await?;
        let answer = loop {
            let read = stream.read(&mut buffer[have..]).await?;
            if read == 0 {
                bail!("closed within the answer");
            }
            have += read;
            let head = buffer[..have].windows(4).position(|window| window == b"\r\n\r\n");
            if head.is_some_and(|head| have >= head + 4 + serve::BODY) {
                break &buffer[..have];
            }
        };
        if answer.windows(expected.len()).any(|window| window == expected.as_bytes()) {
            return Ok(());
        }
        have = 0;
    }
}
