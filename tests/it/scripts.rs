//! `scripts/install-mcp`, with programs in place of Node.js and npm.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

/// A directory with packages to be installed, and another one with the programs.
struct Packages {
    dir: PathBuf,
    has_ci: bool,
}

impl Packages {
    /// npm exits with `status`. It adds a line to `calls`, and writes what npm writes last.
    fn new(name: &str, node: &str, status: u8) -> Self {
        let dir = std::env::temp_dir().join(format!("tollgate-{name}-{}", std::process::id()));
        fs::create_dir_all(dir.join("bin")).unwrap();
        fs::write(dir.join("package-lock.json"), "{}").unwrap();
        let npm = format!(
            "echo \"$@\" >> calls
             mkdir -p node_modules
             echo 'a reason' >&2
             [ {status} = 0 ] && touch node_modules/.package-lock.json
             exit {status}"
        );
        for (program, text) in [("node", format!("echo {node}")), ("npm", npm)] {
            let path = dir.join("bin").join(program);
            fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let has_ci = false;
        Self { dir, has_ci }
    }

    fn install(&self) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/install-mcp");
        let path = format!("{}:/usr/bin:/bin", self.dir.join("bin").display());
        let mut command = Command::new(script);
        command.arg(&self.dir).env("PATH", path).env_remove("CI");
        if self.has_ci {
            command.env("CI", "true");
        }
        command.output().unwrap()
    }

    fn calls(&self) -> usize {
        let calls = fs::read_to_string(self.dir.join("calls")).unwrap_or_default();
        assert!(calls.lines().all(|line| line.starts_with("ci ")), "{calls}");
        calls.lines().count()
    }
}

impl Drop for Packages {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn npm_packages_are_installed_if_the_lockfile_is_newer() {
    let packages = Packages::new("npm-new", "v22.3.0", 0);
    let age = |file: &str, seconds: u64| {
        let file = fs::File::options()
            .append(true)
            .open(packages.dir.join(file));
        let time = SystemTime::now() - Duration::from_secs(seconds);
        file.unwrap().set_modified(time).unwrap();
    };
    age("package-lock.json", 60);
    for _ in 0..2 {
        assert!(packages.install().status.success());
        assert_eq!(packages.calls(), 1);
    }
    age("node_modules/.package-lock.json", 120);
    assert!(packages.install().status.success());
    assert_eq!(packages.calls(), 2);
}

#[test]
fn npm_is_not_called_without_node_20() {
    for node in ["v18.19.0", "", "not-a-version"] {
        let packages = Packages::new("npm-old", node, 1);
        let output = packages.install();
        assert!(output.status.success(), "{node}: {output:?}");
        assert_eq!(packages.calls(), 0, "{node}");
    }
}

#[test]
fn failed_npm_ends_the_run_in_ci_only() {
    for has_ci in [false, true] {
        let mut packages = Packages::new("npm-fails", "v20.0.0", 1);
        packages.has_ci = has_ci;
        let output = packages.install();
        assert_eq!(output.status.success(), !has_ci, "{output:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        let advice = if has_ci { "npm registry" } else { "left out" };
        assert!(text.contains("a reason") && text.contains(advice), "{text}");
        assert_eq!(packages.calls(), 1);
        assert!(!packages.dir.join("node_modules").exists());
    }
}
