//! Where is everything? Files, then environment, then flags; the later wins.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Parser;
use serde::Deserialize;

/// The pool daemon of a host.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "poold", version)]
pub struct Flags {
    /// Configuration file; `FILE.d/*.toml` beside it are read after it in order of their names
    #[arg(long, env = "POOLD_CONFIG", default_value = "/etc/poold/poold.toml")]
    pub config: PathBuf,
    /// Settings given by flag or environment
    #[command(flatten)]
    pub settings: Settings,
}

/// What can be set, by any of the three ways.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Parser)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Name of this node [default: the host's name]
    #[arg(long, env = "POOLD_NODE")]
    pub node: Option<String>,
    /// Directory for keys and catalog [default: /var/lib/poold]
    #[arg(long, env = "POOLD_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Unix socket of the API [default: /run/poold/api.sock]
    #[arg(long, env = "POOLD_API_SOCK")]
    pub api_sock: Option<PathBuf>,
    /// TCP address for the other hosts [default: 0.0.0.0:7778]
    #[arg(long, env = "POOLD_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// `host:port` under which the other hosts reach this one [default: `listen`, or the node's name with its port]
    #[arg(long, env = "POOLD_ADVERTISE")]
    pub advertise: Option<String>,
    /// Control socket of this host's marsd [default: /run/marsd/control.sock]
    #[arg(long, env = "POOLD_MARSD_CONTROL")]
    pub marsd_control: Option<PathBuf>,
    /// `host:port` under which other marsds reach this host's one [default: the host of `advertise`, port 7777]
    #[arg(long, env = "POOLD_MARSD_PEER")]
    pub marsd_peer: Option<String>,
}

/// Everything settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Name of this node.
    pub node: String,
    /// Directory for keys and catalog.
    pub state_dir: PathBuf,
    /// Unix socket of the API.
    pub api_sock: PathBuf,
    /// TCP address for the other hosts.
    pub listen: SocketAddr,
    /// Where they reach this one.
    pub advertise: String,
    /// Control socket of marsd.
    pub marsd_control: PathBuf,
    /// Where other marsds reach this host's one.
    pub marsd_peer: String,
}

impl Settings {
    /// These settings, and `weaker` where they say nothing.
    fn over(self, weaker: Settings) -> Settings {
        Settings {
            node: self.node.or(weaker.node),
            state_dir: self.state_dir.or(weaker.state_dir),
            api_sock: self.api_sock.or(weaker.api_sock),
            listen: self.listen.or(weaker.listen),
            advertise: self.advertise.or(weaker.advertise),
            marsd_control: self.marsd_control.or(weaker.marsd_control),
            marsd_peer: self.marsd_peer.or(weaker.marsd_peer),
        }
    }

    /// Defaults filled in and everything checked.
    fn settle(self, host_name: &str) -> anyhow::Result<Config> {
        let node = self.node.unwrap_or_else(|| host_name.to_owned());
        model::NodeId::new(&node).context("the node's name")?;
        let listen = self
            .listen
            .unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 7778)));
        let advertise = self.advertise.unwrap_or_else(|| {
            if listen.ip().is_unspecified() {
                format!("{node}:{}", listen.port())
            } else {
                listen.to_string()
            }
        });
        let host = check_address(&advertise).context("advertise")?;
        let marsd_peer = self.marsd_peer.unwrap_or_else(|| format!("{host}:7777"));
        check_address(&marsd_peer).context("marsd_peer")?;
        Ok(Config {
            node,
            state_dir: self.state_dir.unwrap_or_else(|| "/var/lib/poold".into()),
            api_sock: self.api_sock.unwrap_or_else(|| "/run/poold/api.sock".into()),
            listen,
            advertise,
            marsd_control: self
                .marsd_control
                .unwrap_or_else(|| "/run/marsd/control.sock".into()),
            marsd_peer,
        })
    }
}

impl Config {
    /// Reads all three ways. Errors name the file or the setting.
    pub fn load(flags: Flags) -> anyhow::Result<Config> {
        let mut files = Settings::default();
        for path in config_files(&flags.config)? {
            let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            let settings: Settings =
                toml::from_str(&text).with_context(|| format!("read {}", path.display()))?;
            files = settings.over(files);
        }
        let host_name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host_name = host_name
            .trim()
            .split('.')
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase();
        flags.settings.over(files).settle(&host_name)
    }
}

fn config_files(main: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    if main.exists() {
        files.push(main.to_owned());
    }
    let dir = main.with_added_extension("d");
    if dir.is_dir() {
        let entries = fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))?;
        let mut more = Vec::new();
        for entry in entries {
            let path = entry.with_context(|| format!("read {}", dir.display()))?.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                more.push(path);
            }
        }
        more.sort();
        files.append(&mut more);
    }
    Ok(files)
}

/// The host of a `host:port`; an IPv6 host keeps its brackets.
fn check_address(address: &str) -> anyhow::Result<&str> {
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(host),
        _ => bail!("`{address}` is not of the form host:port"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_weaker_than_flags_and_later_files_win() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("poold.toml");
        fs::write(
            &main,
            "node = \"a\"\nstate_dir = \"/one\"\nlisten = \"127.0.0.1:1\"\n",
        )
        .unwrap();
        fs::create_dir(dir.path().join("poold.toml.d")).unwrap();
        fs::write(dir.path().join("poold.toml.d/10.toml"), "state_dir = \"/two\"").unwrap();
        fs::write(dir.path().join("poold.toml.d/20.toml"), "api_sock = \"/sock\"").unwrap();
        let settings = Settings {
            node: Some("b".to_owned()),
            ..Settings::default()
        };
        let config = Config::load(Flags {
            config: main.clone(),
            settings,
        })
        .unwrap();
        assert_eq!(
            (config.node.as_str(), config.state_dir.to_str()),
            ("b", Some("/two"))
        );
        assert_eq!(
            (config.advertise.as_str(), config.marsd_peer.as_str()),
            ("127.0.0.1:1", "127.0.0.1:7777")
        );
        fs::write(&main, "nodes = 1").unwrap();
        let error = Config::load(Flags {
            config: main,
            settings: Settings::default(),
        })
        .unwrap_err();
        assert!(error.to_string().contains("poold.toml"), "{error}");
    }

    #[test]
    fn addresses_and_names_are_checked() {
        let settings = |node: &str, advertise: &str| Settings {
            node: Some(node.to_owned()),
            advertise: Some(advertise.to_owned()),
            ..Settings::default()
        };
        assert!(settings("a", "host:1").settle("x").is_ok());
        assert!(settings("a", "host").settle("x").is_err());
        assert!(settings("A!", "host:1").settle("x").is_err());
        assert_eq!(
            Settings::default().settle("web-1").unwrap().advertise,
            "web-1:7778"
        );
    }
}
