//! `config diff`: how two generations differ, or a generation and a directory, object by object and field by field.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::Error;

use crate::admin::api::{Generation, HistoryEntry};
use crate::cli::client::Client;
use crate::cli::output::{Out, TextFormat, document, utc};
use crate::cli::style::{Mark, Style};
use crate::cli::{AgentArgs, Exit, Failure, Outcome};
use crate::history::{self, ObjectDiff, Objects};
use crate::model::build::BuildOptions;
use crate::source;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    agent: AgentArgs,
    /// Two generations: from, to. One: from it to the newest. None: from the last but one to the newest
    #[arg(value_name = "GENERATION", num_args = 0..=2)]
    generations: Vec<u64>,
    /// To what a directory or file says, from the newest generation or the one named
    #[arg(long, value_name = "PATH")]
    source: Option<PathBuf>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: TextFormat,
}

/// A state with its name.
struct Side {
    name: String,
    objects: Objects,
}

pub(super) fn run(args: &Args, out: &mut Out<'_>) -> Outcome {
    let (from, to) = sides(args, &args.agent.client()?)?;
    let found = history::diff(&from.objects, &to.objects);
    let style = out.style;
    out.data(&document(args.output, &found, |found| text(&from.name, &to.name, found, style))?)?;
    if args.output == TextFormat::Text && found.is_empty() {
        out.note(&format!("no difference between {} and {}", from.name, to.name))?;
    }
    Ok(if found.is_empty() { Exit::Ok } else { Exit::No })
}

fn sides(args: &Args, client: &Client) -> Result<(Side, Side), Failure> {
    let fetch = |generation: u64| -> Result<Side, Failure> {
        let kept: Generation = client.get(&format!("/v1/config/history/{generation}"))?;
        Ok(Side { name: format!("generation {generation} ({})", utc(kept.time)), objects: kept.objects })
    };
    let nth = |back: usize| -> Result<Side, Failure> {
        let entries: Vec<HistoryEntry> = client.get("/v1/config/history")?;
        match entries.get(back) {
            Some(entry) => fetch(entry.generation),
            None if back > 0 && !entries.is_empty() => {
                Ok(Side { name: "nothing".to_owned(), objects: Objects::new() })
            }
            None => Err(Failure::message(Exit::Failed, "no generation is kept yet")
                .hint("the source was not read yet: see `mesh-agent status`")),
        }
    };
    match (&args.source, args.generations.as_slice()) {
        (None, []) => Ok((nth(1)?, nth(0)?)),
        (None, [from]) => Ok((fetch(*from)?, nth(0)?)),
        (None, [from, to, ..]) => Ok((fetch(*from)?, fetch(*to)?)),
        (Some(path), []) => Ok((nth(0)?, directory(path)?)),
        (Some(path), [from]) => Ok((fetch(*from)?, directory(path)?)),
        (Some(_), _) => {
            Err(Failure::message(Exit::Usage, "--source takes the place of the second generation")
                .hint("name one generation at most"))
        }
    }
}

fn directory(path: &std::path::Path) -> Result<Side, Failure> {
    let name = path.display().to_string();
    let report = source::validate(path, BuildOptions::default()).map_err(|error| {
        Failure::new(Exit::BadInput, Error::new(error).context(format!("{name} can't be read")))
    })?;
    Ok(Side { name, objects: report.texts })
}

/// As `diff -u` has it, with fields for lines.
fn text(from: &str, to: &str, found: &[ObjectDiff], style: Style) -> String {
    let mut out = String::new();
    if found.is_empty() {
        return out;
    }
    // Writing to a String can't fail.
    let _ = writeln!(out, "--- {from}\n+++ {to}");
    for object in found {
        let _ = writeln!(out, "@@ {} {}", object.object, object.change.label());
        for field in &object.fields {
            for (sign, mark, value) in [("-", Mark::Bad, &field.from), ("+", Mark::Good, &field.to)] {
                let Some(value) = value else { continue };
                let line = printable(&format!("{sign} {}: {value}", field.field));
                let _ = writeln!(out, "{}", style.paint(mark, &line));
            }
        }
    }
    out
}

/// Text of a configuration never steers the terminal; a value of several lines stays one.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            c if c.is_control() => out.push('?'),
            c => out.push(c),
        }
    }
    out
}
