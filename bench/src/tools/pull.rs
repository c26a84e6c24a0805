//! One connection, and as many bytes as come on it for a while.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout_at;

use super::block_on;

#[derive(clap::Args)]
pub struct Args {
    /// Where to
    to: SocketAddr,
    /// For how long
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
}

/// Says how many mebibytes came, in the words of `dial`.
pub fn run(args: &Args) -> Result<()> {
    let mut bytes = 0_u64;
    let mut took = Duration::ZERO;
    block_on(async {
        let mut stream = TcpStream::connect(args.to).await?;
        stream.write_all(b"go").await?;
        let begin = Instant::now();
        let end = begin + Duration::from_secs_f64(args.seconds);
        let mut buffer = vec![0; 256 * 1024];
        while let Ok(read) = timeout_at(end.into(), stream.read(&mut buffer)).await {
            match read? {
                0 => bail!("closed after {bytes} bytes"),
                read => bytes += read as u64,
            }
        }
        took = begin.elapsed();
        Ok(())
    })?;
    let mebibytes = bytes / (1024 * 1024);
    println!("done {mebibytes} errors 0 seconds {:.3} p50 0 p99 0", took.as_secs_f64());
    Ok(())
}
