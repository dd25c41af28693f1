//! How are lvm2's tools run? By name, with a time limit; what they report is JSON, what they complain of is passed on.

use std::time::Duration;

use api::ApiError;
use duct::cmd;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// One call. A tool that waits for another one's lock, or for a dead disk, must not hold up its host's reports for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a tool that changes something; nothing happens a second time where things are so already, so the agent simply repeats it.
pub fn change(tool: &str, arguments: &[&str]) -> Result<(), ApiError> {
    run(tool, arguments).map(|_| ())
}

/// Runs a tool that reports, once more if that fails: rows of `key`, with sizes in bytes.
pub fn report<T: DeserializeOwned>(
    tool: &str,
    key: &str,
    columns: &str,
    of: &[&str],
) -> Result<Vec<T>, ApiError> {
    let format = [
        "--reportformat",
        "json",
        "--units",
        "b",
        "--nosuffix",
        "-o",
        columns,
    ];
    let arguments = [&format, of].concat();
    let out = run(tool, &arguments).or_else(|_| run(tool, &arguments))?;
    rows(key, &out).map_err(|why| ApiError::failed(format!("`{tool}` reports what cannot be read: {why}")))
}

/// The rows of a report in JSON.
fn rows<T: DeserializeOwned>(key: &str, text: &[u8]) -> Result<Vec<T>, String> {
    #[derive(Deserialize)]
    struct Reports {
        report: Vec<serde_json::Map<String, serde_json::Value>>,
    }
    let reports: Reports = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let mut all = Vec::new();
    for mut report in reports.report {
        let found = report.remove(key).ok_or_else(|| format!("it has no `{key}`"))?;
        all.append(&mut serde_json::from_value(found).map_err(|error| error.to_string())?);
    }
    Ok(all)
}

fn run(tool: &str, arguments: &[&str]) -> Result<Vec<u8>, ApiError> {
    let shown = || format!("`{tool} {}`", arguments.join(" "));
    let cannot = |error: std::io::Error| {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => "install the package lvm2 on this host",
            _ => "poold must run as root to use LVM",
        };
        ApiError::failed(format!("{} cannot be run: {error}", shown())).hint(hint)
    };
    let path = std::env::var("PATH").unwrap_or_default();
    let handle = cmd(tool, arguments)
        .env("LC_ALL", "C")
        // Where a service manager leaves the administrator's directories out.
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .env("LVM_SUPPRESS_FD_WARNINGS", "1")
        .stdin_null()
        .stdout_capture()
        .stderr_capture()
        .unchecked()
        .start()
        .map_err(cannot)?;
    let Some(output) = handle.wait_timeout(PATIENCE).map_err(cannot)? else {
        let killed = handle.kill();
        let outcome = killed.map_or_else(
            |error| format!("and cannot be ended: {error}"),
            |()| "ended".to_owned(),
        );
        return Err(ApiError::failed(format!(
            "{} has not answered for {} s; {outcome}",
            shown(),
            PATIENCE.as_secs()
        ))
        .hint("does `lvs` answer on this host? A disk that is gone makes it wait"));
    };
    match output.status.success() {
        true => Ok(output.stdout.clone()),
        false => {
            let words = String::from_utf8_lossy(&output.stderr);
            let words: Vec<&str> = words
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty())
                .collect();
            Err(ApiError::failed(format!("{}: {}", shown(), words.join("; "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize, Debug, PartialEq)]
    struct Row {
        vg_name: String,
    }

    #[test]
    fn a_report_has_rows_and_anything_else_is_an_error() {
        let named = |name: &str| Row {
            vg_name: name.to_owned(),
        };
        let text = br#"{"report": [{"vg": [{"vg_name":"vg0"}, {"vg_name":"vg1"}]}], "log": []}"#;
        assert_eq!(rows::<Row>("vg", text), Ok(vec![named("vg0"), named("vg1")]));
        assert_eq!(rows::<Row>("vg", br#"{"report": [{"vg": []}]}"#), Ok(vec![]));
        for bad in [
            &b"  vg0"[..],
            b"",
            b"{}",
            br#"{"report": [{"lv": []}]}"#,
            br#"{"report": [{"vg": [{}]}]}"#,
        ] {
            assert!(rows::<Row>("vg", bad).is_err());
        }
    }

    #[test]
    fn what_a_tool_complains_of_is_passed_on() {
        let error = change(
            "sh",
            &[
                "-c",
                "echo '  no space' >&2; echo >&2; echo ' at all' >&2; exit 5",
            ],
        )
        .unwrap_err();
        assert!(error.message.ends_with(": no space; at all"), "{error}");
        let error = change("no-such-tool-of-lvm", &[]).unwrap_err();
        assert!(error.hint.is_some_and(|hint| hint.contains("lvm2")));
        assert!(change("true", &[]).is_ok());
    }
}
