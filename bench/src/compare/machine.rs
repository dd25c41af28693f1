//! On what machine, and with which versions, was it measured?

use std::path::Path;
use std::process::Command;

/// `(what, which)` lines; what cannot be told is left out.
pub(super) fn describe(dir: &Path) -> Vec<(String, String)> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| field(&text, "model name"));
    let memory = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| field(&text, "MemTotal"));
    let cores = std::thread::available_parallelism()
        .ok()
        .map(|cores| cores.to_string());
    let dir = dir.to_str().unwrap_or(".");
    let lines = [
        ("processor", cpu),
        ("cores", cores),
        ("memory", memory),
        ("kernel", said("uname", &["-sr"])),
        (
            "file system",
            said("stat", &["--file-system", "--format=%T", dir]),
        ),
        ("fio", said("fio", &["--version"])),
        ("qemu", said("qemu-storage-daemon", &["--version"])),
        ("poold", said("git", &["describe", "--always", "--dirty"])),
        ("date", said("date", &["--utc", "+%F"])),
    ];
    lines
        .into_iter()
        .filter_map(|(what, which)| Some((what.to_owned(), which?)))
        .collect()
}

fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().next()?.trim();
    (output.status.success() && !line.is_empty()).then(|| line.to_owned())
}
