//! `hostd config`: checks and explains `mote.toml` where people are, with what runs on the machine.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mote_config::{Layer, MAX_TEXT, SOURCES_PATH, Source, reference, resolve};

use super::{Config, Files, sources};

/// Checks and explains mote.toml, the configuration of a machine.
///
/// The configuration has layers; later ones win, key by key: what is built in (config/mote.toml has every key with its
/// default), mote.toml on the configuration partition, mote.SECTION.KEY=VALUE on the kernel command line, EC2 user data
/// in the form of mote.toml, and what was set by the API. A file has only the keys that differ from the layers below:
///
///     [machine]
///     hostname = "edge-7"
///     interfaces = [{ name = "eth0", addresses = ["192.0.2.7/24"], gateways = ["192.0.2.1"] }]
///     [sandbox]
///     queue_s = 20
///
/// A layer something is wrong with is left out as a whole, and /healthz says why. `hostd config check` says it before.
#[derive(Debug, Parser)]
#[command(name = "config", bin_name = "hostd config", version, verbatim_doc_comment)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Says what is wrong with a file: FILE:LINE:COLUMN, the key, the mistake and the way out. Ends with 1 then.
    Check {
        /// A mote.toml; - is the standard input.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Prints the configuration of this machine: every key, its value, and the layer it comes from if it is not built in.
    Show {
        /// A mote.toml in place of that on the configuration partition.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// The layers init found.
        #[arg(long, value_name = "FILE", default_value = SOURCES_PATH)]
        layers: PathBuf,
    },
    /// Prints all keys with their types, bounds, defaults and meanings, in Markdown.
    Keys,
}

/// Runs it; the arguments begin with `config`.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let (text, code) = match Arguments::parse_from(arguments).command {
        Command::Check { file } => check(&file),
        Command::Show { config, layers } => show(&Files { layers, partition: config }),
        Command::Keys => (reference::list(), ExitCode::SUCCESS),
    };
    // Whoever reads has had enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    code
}

fn check(file: &Path) -> (String, ExitCode) {
    let (name, read) = match file.as_os_str() == "-" {
        true => ("standard input".to_owned(), standard_input()),
        false => (file.display().to_string(), sources::read(file)),
    };
    let bytes = match read {
        Ok(bytes) => bytes,
        Err(error) => return (format!("Cannot read {name}: {error}\n"), ExitCode::FAILURE),
    };
    let resolved = resolve(&[Source::text(Layer::Partition, &name, &bytes)]);
    let mistakes = resolved.rejected.iter().flat_map(|rejected| &rejected.mistakes);
    let mut lines: Vec<String> = mistakes.map(ToString::to_string).collect();
    if lines.is_empty() {
        // The same again in the types this service reads it by.
        lines.extend(
            Config::of(&resolved).err().map(|error| format!("{name}: {}", crate::text::chain(&error))),
        );
    }
    if !lines.is_empty() {
        lines.push("`hostd config keys` lists all keys".to_owned());
        return (lines.join("\n") + "\n", ExitCode::FAILURE);
    }
    let set = resolved.settings().filter(|(_, setting)| setting.layer == Layer::Partition).count();
    (format!("{name}: sound, sets {set} keys\n"), ExitCode::SUCCESS)
}

fn standard_input() -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = u64::try_from(MAX_TEXT).unwrap_or(u64::MAX).saturating_add(1);
    std::io::stdin().take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn show(files: &Files) -> (String, ExitCode) {
    match files.gather() {
        Ok((resolved, unread)) => (super::shown(&resolved, unread), ExitCode::SUCCESS),
        Err(error) => (format!("{}\n", crate::text::chain(&error)), ExitCode::FAILURE),
    }
}
