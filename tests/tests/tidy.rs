//! Is the house in order? Arrows between rooms, absences, module docs, file lengths, verbs, links.
//!
//! The table "Which rooms may use which" in ARCHITECTURE.md is not a description of the rules but the rules themselves:
//! it is parsed here. Each test names every offence it finds, not only the first.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Longer files have more than one subject: move out the tests and helper types first, then split by noun.
const FILE_LINES_MAX: usize = 900;

/// One row of the table.
#[derive(Debug, Default)]
struct Room {
    may_use: BTreeSet<String>,
    must_not_name: BTreeSet<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests room lies in the workspace")
        .to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()))
}

/// Words in backticks.
fn ticked(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The rows of the table below the heading `heading`, cell by cell.
fn table(page: &str, heading: &str) -> Vec<Vec<String>> {
    page.lines()
        .skip_while(|line| !(line.starts_with('#') && line.trim_start_matches('#').trim() == heading))
        .skip(1)
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| {
            line.trim_matches('|')
                .split('|')
                .map(|cell| cell.trim().to_owned())
                .collect()
        })
        .collect()
}

fn rooms() -> BTreeMap<String, Room> {
    let page = read(&root().join("ARCHITECTURE.md"));
    let rows = table(&page, "Which rooms may use which");
    assert!(
        !rows.is_empty(),
        "ARCHITECTURE.md has no table below `Which rooms may use which`"
    );
    rows.into_iter()
        .flat_map(|row| {
            assert_eq!(row.len(), 3, "a row has room, may use, must not name: {row:?}");
            let (may_use, must_not_name) = (ticked(&row[1]), ticked(&row[2]));
            ticked(&row[0]).into_iter().map(move |name| {
                (
                    name,
                    Room {
                        may_use: may_use.clone(),
                        must_not_name: must_not_name.clone(),
                    },
                )
            })
        })
        .collect()
}

/// Every workspace crate with the names of all its direct dependencies, and whether only its tests need them.
fn dependencies() -> BTreeMap<String, BTreeMap<String, bool>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--offline",
            "--manifest-path",
        ])
        .arg(root().join("Cargo.toml"))
        .output()
        .expect("cargo runs, for it runs this test");
    assert!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let list = |value: &Value| value.as_array().expect("cargo metadata lists").clone();
    let name = |value: &Value| value["name"].as_str().expect("packages have names").to_owned();
    let mut crates: BTreeMap<String, BTreeMap<String, bool>> = BTreeMap::new();
    for package in list(&metadata["packages"]) {
        let needs = crates.entry(name(&package)).or_default();
        for dependency in list(&package["dependencies"]) {
            *needs.entry(name(&dependency)).or_insert(true) &= dependency["kind"] == "dev";
        }
    }
    crates
}

/// Every file with this ending below `dir`, sorted.
fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else {
        return found;
    };
    for entry in entries {
        let path = entry.expect("a directory of the source tree can be read").path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if path.is_dir() && !hidden && !path.ends_with("target") {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|e| e == ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// All Rust source of the workspace as (room, path, text).
fn sources() -> Vec<(String, PathBuf, String)> {
    dependencies()
        .into_keys()
        .flat_map(|room| {
            files(&root().join(&room), "rs")
                .into_iter()
                .map(move |path| (room.clone(), path))
        })
        .map(|(room, path)| {
            let text = read(&path);
            (room, path, text)
        })
        .collect()
}

/// Whether it is part of a room, not of its tests.
fn in_src(path: &Path) -> bool {
    let mut parts = path
        .components()
        .map(|part| part.as_os_str())
        .skip_while(|part| *part != "src")
        .skip(1);
    parts.clone().next().is_some() && !parts.any(|part| part == "tests" || part == "tests.rs")
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn none(offences: &[String], rule: &str) {
    assert!(offences.is_empty(), "{rule}\n  {}", offences.join("\n  "));
}

/// The source without comment lines, and with each `a::{b, c::{d, e}}` written out as `a::b a::c::d a::c::e` behind it.
fn paths_named(text: &str) -> String {
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| [line.trim(), "\n"])
        .collect();
    let (mut out, mut groups) = (code.clone(), vec![code]);
    while let Some(code) = groups.pop() {
        for path in code
            .match_indices("::{")
            .flat_map(|(at, _)| written_out(&code, at))
        {
            out.push('\n');
            out.push_str(&path);
            if path.contains("::{") {
                groups.push(path);
            }
        }
    }
    out
}

/// The members of the group that opens at `at`, each with the path before the group.
fn written_out(code: &str, at: usize) -> Vec<String> {
    let prefix = &code[code[..at]
        .rfind(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
        .map_or(0, |i| i + 1)..at];
    let (mut depth, mut members, mut member) = (0, Vec::new(), String::new());
    for c in code[at + 3..].chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => members.push(std::mem::take(&mut member)),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                member.push(c);
            }
        }
    }
    members.push(member);
    members
        .iter()
        .map(|member| format!("{prefix}::{}", member.trim()))
        .collect()
}

/// Whether `path` (such as `std::fs`) occurs as a whole, not as the beginning of a longer name.
fn names(text: &str, path: &str) -> bool {
    text.match_indices(path).any(|(at, _)| {
        let whole = |c: Option<char>| !c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        whole(text[..at].chars().next_back()) && whole(text[at + path.len()..].chars().next())
    })
}

#[test]
fn arrows_between_rooms_are_in_the_table() {
    let (rooms, crates) = (rooms(), dependencies());
    let mut offences = Vec::new();
    for (name, needs) in &crates {
        let Some(room) = rooms.get(name) else {
            offences.push(format!("{name}: the table has no row for it"));
            continue;
        };
        for other in needs.keys().filter(|other| crates.contains_key(*other)) {
            if !room.may_use.contains(other) {
                offences.push(format!("{name} uses {other}"));
            }
        }
    }
    for (name, room) in &rooms {
        if !crates.contains_key(name) {
            offences.push(format!("{name}: in the table, but not in the workspace"));
        }
        for other in room.may_use.iter().filter(|other| !crates.contains_key(*other)) {
            offences.push(format!("{name} may use {other}, which is not in the workspace"));
        }
    }
    none(
        &offences,
        "the table in ARCHITECTURE.md and the arrows in Cargo.toml differ; change the code, or the table by RFD",
    );
}

#[test]
fn rooms_name_nothing_that_they_must_not_know() {
    let (rooms, crates) = (rooms(), dependencies());
    let mut offences = Vec::new();
    for (name, room) in &rooms {
        for banned in &room.must_not_name {
            let needed = crates.get(name).and_then(|needs| needs.get(banned));
            if !banned.contains("::") && needed == Some(&false) {
                offences.push(format!("{name}/Cargo.toml: {banned}"));
            }
        }
    }
    // Its own tests may know more than the room.
    for (room, path, text) in sources().into_iter().filter(|(_, path, _)| in_src(path)) {
        let Some(room) = rooms.get(&room) else { continue };
        let text = paths_named(&text);
        for banned in room.must_not_name.iter().filter(|banned| banned.contains("::")) {
            if names(&text, banned) {
                offences.push(format!("{}: {banned}", shown(&path)));
            }
        }
    }
    none(
        &offences,
        "a room is pure because of what it does not name (third column of the table in ARCHITECTURE.md)",
    );
}

#[test]
fn every_module_says_first_what_it_answers() {
    let mut offences = Vec::new();
    for (_, path, text) in sources() {
        let first = text.lines().next().unwrap_or_default();
        if path.ends_with("tests.rs") {
            // It answers for the module beside it.
        } else if !first.starts_with("//! ") {
            offences.push(format!("{}:1: no module doc", shown(&path)));
        } else if in_src(&path) {
            let paragraph: String = text.lines().take_while(|line| line.starts_with("//! ")).collect();
            if !paragraph.contains('?') {
                offences.push(format!(
                    "{}:1: its first paragraph asks no question",
                    shown(&path)
                ));
            }
        }
    }
    none(
        &offences,
        "a module begins with `//!` and the question it answers",
    );
}

#[test]
fn no_file_is_too_long_to_have_one_subject() {
    let offences: Vec<String> = sources()
        .iter()
        .map(|(_, path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > FILE_LINES_MAX)
        .map(|(path, lines)| format!("{}: {lines} lines", shown(path)))
        .collect();
    none(
        &offences,
        &format!("more than {FILE_LINES_MAX} lines: move out tests and helper types, then split by noun"),
    );
}

#[test]
fn nothing_is_left_for_later() {
    // Put together here so that this file does not accuse itself.
    let banned = [
        (concat!("#[ign", "ore"), "a test that is not run proves nothing"),
        (concat!("to", "do!("), "finish it, or leave it out"),
        (concat!("unimple", "mented!("), "finish it, or leave it out"),
        (concat!("FIX", "ME"), "fix it, or open an issue"),
        (concat!("XX", "X"), "say what is meant, or open an issue"),
    ];
    let mut offences = Vec::new();
    for (_, path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            for (word, reason) in banned {
                if line.contains(word) {
                    offences.push(format!("{}:{}: {word}: {reason}", shown(&path), number + 1));
                }
            }
        }
    }
    none(&offences, "no stubs and no skipped tests");
}

#[test]
fn every_verb_exists_and_is_documented() {
    let makefile = read(&root().join("Makefile"));
    let verbs: BTreeSet<&str> = makefile
        .lines()
        .filter(|line| line.contains(":") && line.contains("## "))
        .filter_map(|line| line.split_once(':'))
        .map(|(verb, _)| verb)
        .filter(|verb| verb.chars().all(|c| c.is_ascii_lowercase()))
        .collect();
    let mut offences = Vec::new();
    for verb in ["demo", "test", "check", "sim", "bench"] {
        if !verbs.contains(verb) {
            offences.push(format!("Makefile: no verb {verb}"));
        }
    }
    let contributing = read(&root().join("CONTRIBUTING.md"));
    for verb in verbs.iter().filter(|verb| **verb != "help") {
        if !contributing.contains(&format!("`make {verb}")) {
            offences.push(format!("CONTRIBUTING.md: says nothing about `make {verb}`"));
        }
    }
    for page in pages() {
        let text = read(&page);
        for quoted in ticked(&text)
            .iter()
            .filter_map(|quoted| quoted.strip_prefix("make "))
        {
            let verb = quoted.split_whitespace().next().unwrap_or_default();
            if verb.chars().all(|c| c.is_ascii_lowercase()) && !verbs.contains(verb) {
                offences.push(format!("{}: `make {verb}` is no verb", shown(&page)));
            }
        }
    }
    let ci = read(&root().join(".ci/run"));
    if ci.lines().last() != Some("exec make test") {
        offences.push(".ci/run: does not end in exactly `exec make test`".to_owned());
    }
    none(&offences, "the verbs of the Makefile are a contract");
}

/// The pages people read.
fn pages() -> Vec<PathBuf> {
    let top = fs::read_dir(root())
        .expect("the source tree can be read")
        .filter_map(Result::ok)
        .map(|entry| entry.path());
    top.filter(|path| path.extension().is_some_and(|e| e == "md"))
        .chain(files(&root().join("docs"), "md"))
        .collect()
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut offences = Vec::new();
    for page in pages() {
        let text = read(&page);
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://") && !target.starts_with('#')) {
            let file = target.split('#').next().unwrap_or_default();
            if !page
                .parent()
                .expect("a page lies in a directory")
                .join(file)
                .exists()
            {
                offences.push(format!("{}: {target}", shown(&page)));
            }
        }
    }
    none(&offences, "broken links");
}

#[test]
fn grouped_imports_are_seen_through() {
    let text = paths_named(
        "use std::{collections::BTreeMap, fs, time::{Duration, Instant}};\n// std::net is only talked about\n",
    );
    assert!(names(&text, "std::fs"));
    assert!(names(&text, "std::time::Instant"));
    assert!(names(&text, "std::collections::BTreeMap"));
    assert!(!names(&text, "std::net"));
    assert!(!names("std::fs_extra", "std::fs"));
}
