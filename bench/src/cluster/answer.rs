//! What did `poolctl --json` say?

use std::process::Output;

use serde_json::Value;

/// Everything that came back from a command.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Exit code; -1 when it was killed.
    pub code: i32,
    /// The object on stdout; null when there was none.
    pub json: Value,
    /// What was said on stderr.
    pub stderr: String,
    /// What was asked, for messages.
    pub command: String,
}

impl Answer {
    pub(super) fn new(output: &Output, command: String) -> Answer {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let stdout = String::from_utf8_lossy(&output.stdout);
        let json = match stdout.trim() {
            "" => Value::Null,
            text => serde_json::from_str(text)
                .unwrap_or_else(|error| panic!("{command} printed no JSON: {error}: {text}")),
        };
        Answer {
            code: output.status.code().unwrap_or(-1),
            json,
            stderr,
            command,
        }
    }

    /// The object of a command that succeeded.
    pub fn ok(self) -> Value {
        assert_eq!(
            self.code, 0,
            "{} failed: {}{}",
            self.command, self.stderr, self.json
        );
        self.json
    }

    /// Checks that it was turned down with this exit code and kind, in words and with a hint.
    pub fn assert_error(&self, code: i32, kind: &str) {
        let complaints = self.complaints(code, kind);
        assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    }

    /// What is wrong with it as an error of this exit code and kind.
    pub fn complaints(&self, code: i32, kind: &str) -> Vec<String> {
        let error = &self.json["error"];
        let mut complaints = Vec::new();
        if self.code != code || error["kind"] != kind {
            let (found, said) = (self.code, &self.stderr);
            complaints.push(format!(
                "exit code {found} instead of {code} ({kind}): {said}{}",
                self.json
            ));
        }
        for field in ["message", "hint"] {
            if error[field].as_str().unwrap_or_default().trim().is_empty() {
                complaints.push(format!("no {field}: {}", self.json));
            }
        }
        complaints
            .iter()
            .map(|complaint| format!("{}: {complaint}", self.command))
            .collect()
    }
}
