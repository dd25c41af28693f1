//! Does the comparison still run? Small volumes, one short round, everybody.

use std::process::Command;

use serde_json::Value;

#[test]
fn a_small_comparison_fills_every_row() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let (page, json) = (dir.path().join("page.md"), dir.path().join("all.json"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    command
        .args(["--small", "--dir"])
        .arg(dir.path())
        .arg("--page")
        .arg(&page)
        .arg("--json")
        .arg(&json);
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 7 * 6);
    for row in rows {
        assert!(
            row["iops"].as_f64() > Some(0.0) && row["to_qsd"].as_f64() > Some(0.0),
            "{row}"
        );
    }
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("### randwrite 4k qd1 + flush"), "{page}");
}
