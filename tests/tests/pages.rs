//! Can everything that the pages tell people to type be typed? Every `poolctl` line is tried with `--help`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What follows `poolctl ` on a line of an example: without prompt, comment and pipe.
fn typed(line: &str) -> Option<Vec<String>> {
    let (prompt, command) = line.split_once("poolctl ")?;
    // `a# poolctl …`, `$ poolctl …`, `uri=$(poolctl …)`; else it is a sentence or a path.
    if !(prompt.is_empty() || prompt.ends_with("# ") || prompt.ends_with("$ ") || prompt.ends_with("$(")) {
        return None;
    }
    let end = [" #", " |", ";", ")", " >"]
        .iter()
        .filter_map(|mark| command.find(mark))
        .min();
    let command = &command[..end.unwrap_or(command.len())];
    Some(
        command
            .split_whitespace()
            .map(|word| word.trim_matches('"').to_owned())
            .collect(),
    )
}

/// Every command of a page: whole lines of its examples, and words in backticks.
fn commands(page: &str) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    for (index, block) in page.split("```").enumerate() {
        if index % 2 == 1 {
            found.extend(block.lines().filter_map(typed));
        } else {
            let quoted = block.split('`').skip(1).step_by(2);
            found.extend(
                quoted
                    .filter(|text| text.starts_with("poolctl "))
                    .filter_map(typed),
            );
        }
    }
    found
}

fn pages(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir)
        .expect("the source tree can be read")
        .filter_map(Result::ok);
    entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "md"))
        .collect()
}

#[test]
fn every_command_on_a_page_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests room lies in the workspace");
    let poolctl = bench::cluster::program("poolctl").expect("poolctl is built");
    let mut tried = 0;
    for page in [
        pages(root),
        pages(&root.join("docs")),
        pages(&root.join("docs/operations")),
    ]
    .concat()
    {
        let text = std::fs::read_to_string(&page).expect("a page can be read");
        for arguments in commands(&text) {
            let answer = Command::new(&poolctl)
                .args(&arguments)
                .arg("--help")
                .output()
                .expect("poolctl runs");
            assert!(
                answer.status.success(),
                "{}: poolctl {}\n{}",
                page.display(),
                arguments.join(" "),
                String::from_utf8_lossy(&answer.stderr)
            );
            tried += 1;
        }
    }
    assert!(
        tried >= 10,
        "only {tried} commands were found: has the form of examples changed?"
    );
}

#[test]
fn commands_are_found_in_examples_and_sentences() {
    let page = "Type `poolctl status`.\n```\na# poolctl volume create web 10G  # new\nb# ls\n$ x=\"$(poolctl volume attach web)\"\n```\nThen poolctl ends.";
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let want = [
        words("status"),
        words("volume create web 10G"),
        words("volume attach web"),
    ];
    assert_eq!(commands(page), BTreeSet::from(want));
}
