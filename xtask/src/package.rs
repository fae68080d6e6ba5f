//! Every crate that is to be published can be: its package holds what it needs, and builds alone.

use std::process::Command;

use serde_json::Value;

use crate::context::Context;
use crate::outcome::{Outcome, minutes};

/// What each of them says about itself.
const KEYS: [&str; 6] =
    ["description", "license", "readme", "documentation", "keywords", "categories"];

/// The step.
pub(crate) fn check(context: &Context) -> Result<Outcome, String> {
    let words = ["metadata", "--no-deps", "--format-version", "1", "--locked"];
    let output = context.output_of(context.cargo(&words), minutes(1))?;
    let metadata: Value =
        serde_json::from_str(&output.stdout).map_err(|e| format!("cargo metadata: {e}"))?;
    let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
    let (kept_back, published): (Vec<&Value>, Vec<&Value>) =
        packages.iter().partition(|package| package["publish"].is_array());
    let wrong: Vec<String> = published.iter().flat_map(|package| missing(package)).collect();
    if !wrong.is_empty() {
        return Err(wrong.join("\n!!! "));
    }
    let mut command: Command =
        context.cargo(&["package", "--workspace", "--locked", "--allow-dirty", "--quiet"]);
    for package in kept_back {
        command.args(["--exclude", name(package)]);
    }
    // The copies that are unpacked and built are another workspace: a folder of their own.
    command.env("CARGO_TARGET_DIR", context.target.join("package"));
    context.run(command, minutes(12))?;
    println!("{} crates packaged, and built from their packages", published.len());
    Ok(Outcome::Passed)
}

fn name(package: &Value) -> &str {
    package["name"].as_str().unwrap_or_default()
}

/// The keys that a package lacks, and dependencies on our own crates without a version.
fn missing(package: &Value) -> Vec<String> {
    let absent = |value: &Value| match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    };
    let keys = KEYS.iter().filter(|key| absent(&package[**key]));
    let mut wrong: Vec<String> =
        keys.map(|key| format!("{} has no {key}", name(package))).collect();
    let dependencies = package["dependencies"].as_array().cloned().unwrap_or_default();
    // What only tests need is left out of the package where it has no version.
    let unversioned = dependencies.iter().filter(|dependency| {
        dependency["path"].is_string() && dependency["req"] == "*" && dependency["kind"] != "dev"
    });
    wrong.extend(unversioned.map(|dependency| {
        format!("{} depends on {} without a version", name(package), dependency["name"])
    }));
    wrong
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let package = json!({
            "name": "p", "description": "d", "license": "MIT",
            "readme": "README.md", "documentation": "d", "keywords": ["k"], "categories": [],
            "dependencies": [
                {"name": "a", "path": "/a", "req": "*", "kind": null},
                {"name": "b", "path": "/b", "req": "*", "kind": "dev"},
                {"name": "c", "path": "/c", "req": "^0.1", "kind": null},
                {"name": "d", "req": "*", "kind": null},
            ],
        });
        let wrong = missing(&package);
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(wrong[0].contains("no categories") && wrong[1].contains("\"a\""), "{wrong:?}");
    }
}
