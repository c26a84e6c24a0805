//! New connections: connect, one request, the whole answer, close; some at a time, for a while.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::block_on;

#[derive(clap::Args)]
pub struct Args {
    /// Where to
    to: SocketAddr,
    /// How many at a time
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// For how long
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
}

/// After this a connection counts as an error.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a request is to the server of this bench.
pub const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n";

#[derive(Default)]
struct Seen {
    micros: Vec<u32>,
    errors: u64,
}

pub fn run(args: &Args) -> Result<()> {
    let seen = Rc::new(RefCell::new(Seen::default()));
    let begin = Instant::now();
    let end = begin + Duration::from_secs_f64(args.seconds);
    block_on(async {
        let mut tasks = JoinSet::new();
        for _ in 0..args.connections {
            let (to, seen) = (args.to, seen.clone());
            tasks.spawn_local(async move {
                while Instant::now() < end {
                    let start = Instant::now();
                    let result =
                        timeout(PATIENCE, exchange(to)).await.unwrap_or_else(|late| Err(late.into()));
                    let mut seen = seen.borrow_mut();
                    match result {
                        Ok(()) => {
                            seen.micros.push(u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX))
                        }
                        Err(_) => seen.errors += 1,
                    }
                }
            });
        }
        while tasks.join_next().await.is_some() {}
        Ok(())
    })?;
    let mut seen = seen.borrow_mut();
    seen.micros.sort_unstable();
    let at = |part: f64| seen.micros.get((seen.micros.len() as f64 * part) as usize).copied().unwrap_or(0);
    println!(
        "done {} errors {} seconds {:.3} p50 {} p99 {}",
        seen.micros.len(),
        seen.errors,
        begin.elapsed().as_secs_f64(),
        at(0.5),
        at(0.99)
    );
    Ok(())
}

async fn exchange(to: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    stream.write_all(REQUEST).await?;
    read_answer(&mut stream).await
}

/// Reads one answer of this bench's server: a head and a body of a known size.
pub async fn read_answer(stream: &mut TcpStream) -> Result<()> {
    let (mut buffer, mut have) = ([0_u8; 4096], 0);
    loop {
        let read = stream.read(&mut buffer[have..]).await?;
        if read == 0 {
            bail!("closed within the answer, after {:?}", String::from_utf8_lossy(&buffer[..have]));
        }
        have += read;
        let head = buffer[..have].windows(4).position(|window| window == b"\r\n\r\n");
        if head.is_some_and(|head| have >= head + 4 + super::serve::BODY) {
            return Ok(());
        }
    }
}
