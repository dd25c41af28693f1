//! How is marsd set up? File, environment and flags, in that order of strength, merged in one place.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand, ValueEnum};
use serde::Deserialize;

use crate::host::HostConfig;

/// The file that is read when none is named; it may be missing.
const CONFIG_FILE: &str = "/etc/poold/marsd.toml";

/// What can be said on the command line or in the environment.
#[derive(Debug, Parser)]
#[command(
    name = "marsd",
    version,
    about = "The data plane of a host: volumes, their logs, links to other hosts, doors for guests",
    after_help = "Settings come from the file, the environment and the flags; each is stronger than the one before. \
                  Sizes are in bytes, times in seconds unless a name says otherwise."
)]
pub struct Args {
    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Verb>,
    /// TOML file with settings [default: /etc/poold/marsd.toml, if it exists].
    #[arg(long, env = "MARSD_CONFIG", value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Identity and volumes [default: /var/lib/marsd].
    #[arg(long, env = "MARSD_STATE_DIR", value_name = "DIR", global = true)]
    state_dir: Option<PathBuf>,
    /// Logs of volumes, best on a file system of their own [default: STATE_DIR/log].
    #[arg(long, env = "MARSD_LOG_DIR", value_name = "DIR", global = true)]
    log_dir: Option<PathBuf>,
    /// Sockets [default: /run/marsd].
    #[arg(long, env = "MARSD_RUN_DIR", value_name = "DIR", global = true)]
    run_dir: Option<PathBuf>,
    /// Socket for poold [default: RUN_DIR/control.sock].
    #[arg(long, env = "MARSD_CONTROL", value_name = "PATH", global = true)]
    control: Option<PathBuf>,
    /// Where other hosts reach this one; port 0 takes any free one [default: 0.0.0.0:7777].
    #[arg(
        long,
        env = "MARSD_LISTEN",
        alias = "peer-listen",
        value_name = "HOST:PORT",
        global = true
    )]
    listen: Option<String>,
    /// Budget of all logs of volumes together, in bytes; an operator's word at run time is stronger [default: none].
    #[arg(long, env = "MARSD_LOG_BYTES_MAX", value_name = "BYTES", global = true)]
    log_bytes_max: Option<u64>,
    /// Form of the log on stderr; RUST_LOG chooses what is in it [default: text].
    #[arg(long, env = "MARSD_LOG_FORMAT", value_enum, global = true)]
    log_format: Option<LogFormat>,
}

/// What marsd can do besides running.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Verb {
    /// Reads all settings, prints what they come to, and ends.
    CheckConfig,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object per line.
    Json,
}

/// The file's settings.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSettings {
    state_dir: Option<PathBuf>,
    log_dir: Option<PathBuf>,
    run_dir: Option<PathBuf>,
    control: Option<PathBuf>,
    #[serde(alias = "peer_listen")]
    listen: Option<String>,
    log_bytes_max: Option<u64>,
    log_format: Option<LogFormat>,
}

/// All settings, merged and checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// For the host.
    pub host: HostConfig,
    /// Control socket.
    pub control: PathBuf,
    /// How log lines look.
    pub log_format: LogFormat,
}

impl Config {
    /// Merges file, environment and flags.
    ///
    /// Errors: the file cannot be read, or it, a variable or a flag says something that cannot be; each names file and key.
    pub fn new(args: &Args) -> anyhow::Result<Config> {
        let path = args.config.as_deref().unwrap_or(Path::new(CONFIG_FILE));
        // A file that somebody typed must be there; one that a unit or script names in the environment may be.
        let in_environment = std::env::var_os("MARSD_CONFIG").is_some_and(|value| path == value);
        if args.config.is_some() && !in_environment && !path.exists() {
            bail!("--config: there is no file {}", path.display());
        }
        let file = read(path)?;
        let pick = |strong: &Option<PathBuf>, weak: Option<PathBuf>, or: PathBuf| {
            strong.clone().or(weak).unwrap_or(or)
        };
        let state_dir = pick(&args.state_dir, file.state_dir, PathBuf::from("/var/lib/marsd"));
        let run_dir = pick(&args.run_dir, file.run_dir, PathBuf::from("/run/marsd"));
        let log_dir = pick(&args.log_dir, file.log_dir, state_dir.join("log"));
        let control = pick(&args.control, file.control, run_dir.join("control.sock"));
        for (key, path) in [
            ("state_dir", &state_dir),
            ("run_dir", &run_dir),
            ("log_dir", &log_dir),
            ("control", &control),
        ] {
            if !path.is_absolute() {
                bail!("{key}: `{}` must be an absolute path", path.display());
            }
        }
        let listen = args
            .listen
            .clone()
            .or(file.listen)
            .unwrap_or_else(|| "0.0.0.0:7777".to_owned());
        let port = listen
            .rsplit_once(':')
            .filter(|(host, _)| !host.is_empty())
            .map(|(_, port)| port);
        if port.and_then(|port| port.parse::<u16>().ok()).is_none() {
            bail!("listen: `{listen}` must be HOST:PORT, as in 0.0.0.0:7777");
        }
        let log_format = args.log_format.or(file.log_format).unwrap_or_default();
        Ok(Config {
            host: HostConfig {
                state_dir,
                log_dir,
                run_dir,
                listen,
                log_bytes_max: args.log_bytes_max.or(file.log_bytes_max),
            },
            control,
            log_format,
        })
    }
}

/// A file that does not exist says nothing.
fn read(path: &Path) -> anyhow::Result<FileSettings> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(FileSettings::default()),
        Err(e) => return Err(e).with_context(|| format!("read {}", path.display())),
    };
    toml::from_str(&text).map_err(|e| {
        let line = e.span().map_or(0, |span| {
            text[..span.start.min(text.len())].lines().count().max(1)
        });
        anyhow::anyhow!(
            "{}: line {line}: {}",
            path.display(),
            e.message().replace('\n', " ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(file: &str, flags: &[&str]) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marsd.toml");
        std::fs::write(&path, file).unwrap();
        let args = ["marsd", "--config", path.to_str().unwrap()];
        let args = Args::try_parse_from(args.iter().chain(flags)).map_err(|e| e.to_string())?;
        Config::new(&args).map_err(|e| format!("{e:#}"))
    }

    #[test]
    fn flags_are_stronger_than_the_file_and_the_file_than_defaults() {
        let plain = config("", &[]).unwrap();
        assert_eq!(plain.host.log_dir, Path::new("/var/lib/marsd/log"));
        assert_eq!(plain.control, Path::new("/run/marsd/control.sock"));
        assert_eq!(plain.host.listen, "0.0.0.0:7777");
        assert_eq!(plain.host.log_bytes_max, None);
        let file = "state_dir = \"/a\"\nlisten = \"127.0.0.1:1\"\nlog_format = \"json\"\nlog_bytes_max = 5";
        let both = config(file, &["--state-dir", "/b"]).unwrap();
        assert_eq!(both.host.log_bytes_max, Some(5));
        assert_eq!(both.host.log_dir, Path::new("/b/log"));
        assert_eq!(
            (both.host.listen.as_str(), both.log_format),
            ("127.0.0.1:1", LogFormat::Json)
        );
    }

    #[test]
    fn bad_settings_are_named() {
        let check = |file: &str, flags: &[&str], expected: &str| {
            let error = config(file, flags).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        check(
            "state_dri = \"/a\"",
            &[],
            "marsd.toml: line 1: unknown field `state_dri`",
        );
        check("\nlisten = 7777", &[], "marsd.toml: line 2: invalid type");
        check(
            "state_dir = \"a\"",
            &[],
            "state_dir: `a` must be an absolute path",
        );
        check("", &["--listen", "7777"], "listen: `7777` must be HOST:PORT");
        check("", &["--log-format", "xml"], "invalid value 'xml'");
    }
}
