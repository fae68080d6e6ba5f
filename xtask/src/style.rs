//! `cargo xtask style`: the figures of docs/design/style.md, for each crate and in total.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use crate::context::Context;
use crate::source::{self, Krate};
use crate::{circles, scan};

/// Lines that are longer are counted, in characters.
const WIDTH: usize = 100;

/// What is counted of one crate, or of all.
#[derive(Debug, Default)]
struct Figures {
    name: String,
    /// Of all Rust files, tests too.
    long_lines: usize,
    /// At the library's root; none where there is no library.
    names: Option<usize>,
    circles: usize,
    comment_lines: usize,
    /// Neither blank nor comment.
    code_lines: usize,
    /// Lines of each file of the library or program, without its tests.
    files: Vec<usize>,
    /// Lines of each function in them, from `fn` to its closing brace.
    functions: Vec<usize>,
}

/// The task.
pub(crate) fn task(arguments: &[&str]) -> Result<ExitCode, String> {
    let as_json = match arguments {
        [] => false,
        ["--json"] => true,
        [other, ..] => return Err(format!("`{other}` is not an option")),
    };
    let context = Context::find()?;
    let crates = source::crates(&context.root)?;
    let mut rows: Vec<Figures> =
        crates.iter().map(|krate| measure(&context.root, krate)).collect::<Result<_, _>>()?;
    rows.push(total(&rows));
    if as_json {
        println!("{:#}", serde_json::Value::Array(rows.iter().map(object).collect()));
    } else {
        print!("{}", table(&rows));
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(root: &Path, krate: &Krate) -> Result<Figures, String> {
    let mut figures = Figures {
        name: krate.folder.trim_start_matches("crates/").to_owned(),
        circles: circles::count(krate),
        ..Figures::default()
    };
    figures.long_lines = long_lines(root, krate)?.len();
    for modules in &krate.roots {
        if modules.files.first().is_some_and(|file| file.ends_with("src/lib.rs")) {
            figures.names = Some(modules.public_names(0));
        }
        for path in &modules.files {
            figures.add(&scan::read(root, path)?)?;
        }
    }
    Ok(figures)
}

/// Fails if a line of a Rust file is longer than [`WIDTH`]. rustfmt breaks code, but leaves
/// comments and string literals as they are.
pub(crate) fn check_widths(root: &Path) -> Result<(), String> {
    let mut found = Vec::new();
    for krate in source::crates(root)? {
        found.extend(long_lines(root, &krate)?);
    }
    if found.is_empty() {
        return Ok(());
    }
    Err(format!("longer than {WIDTH} characters, to be broken by hand: {}", found.join(", ")))
}

/// The lines of all Rust files of a crate that are longer than [`WIDTH`], each as `file:line`.
fn long_lines(root: &Path, krate: &Krate) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    for path in scan::files(&root.join(&krate.folder), "rs")? {
        let path = Path::new(&krate.folder).join(path);
        let text = scan::read(root, &path)?;
        let long = text.lines().enumerate().filter(|(_, line)| line.chars().count() > WIDTH);
        found.extend(long.map(|(at, _)| format!("{}:{}", path.display(), at + 1)));
    }
    Ok(found)
}

fn total(rows: &[Figures]) -> Figures {
    let sum = |of: fn(&Figures) -> usize| rows.iter().map(of).sum();
    let all = |of: fn(&Figures) -> &Vec<usize>| rows.iter().flat_map(of).copied().collect();
    Figures {
        name: "total".to_owned(),
        long_lines: sum(|row| row.long_lines),
        names: None,
        circles: sum(|row| row.circles),
        comment_lines: sum(|row| row.comment_lines),
        code_lines: sum(|row| row.code_lines),
        files: all(|row| &row.files),
        functions: all(|row| &row.functions),
    }
}

impl Figures {
    /// Counts one file of a library or program.
    fn add(&mut self, text: &str) -> Result<(), String> {
        let file = syn::parse_file(text).map_err(|e| e.to_string())?;
        let mut found = Found::default();
        found.visit_file(&file);
        let in_tests = |number: usize| {
            found.tests.iter().any(|(first, last)| (*first..=*last).contains(&number))
        };
        let mut lines = 0;
        for (_, line) in text.lines().enumerate().filter(|(at, _)| !in_tests(at + 1)) {
            lines += 1;
            let line = line.trim();
            if line.starts_with("//") {
                self.comment_lines += 1;
            } else if !line.is_empty() {
                self.code_lines += 1;
            }
        }
        self.files.push(lines);
        self.functions.extend(found.functions);
        Ok(())
    }

    /// Comments among all lines that are not blank, in per cent.
    fn comment_share(&self) -> f64 {
        let all = (self.comment_lines + self.code_lines).max(1);
        100.0 * self.comment_lines as f64 / all as f64
    }
}

/// What a walk over a file finds.
#[derive(Default)]
struct Found {
    functions: Vec<usize>,
    /// First and last lines of what is built for tests only.
    tests: Vec<(usize, usize)>,
}

impl Found {
    fn function(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let first = signature.fn_token.span.start().line;
        self.functions.push(body.brace_token.span.close().end().line - first + 1);
    }
}

impl<'ast> Visit<'ast> for Found {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if source::is_test_only(source::attributes(item)) {
            let span = item.span();
            self.tests.push((span.start().line, span.end().line));
        } else {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !source::is_test_only(&item.attrs) {
            self.function(&item.sig, &item.block);
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(body) = &item.default {
            self.function(&item.sig, body);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

/// The value below which `percent` per cent of the values lie; 0 of none.
fn percentile(values: &[usize], percent: usize) -> usize {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let at = (sorted.len().saturating_sub(1) * percent).div_ceil(100);
    sorted.get(at).copied().unwrap_or(0)
}

fn object(row: &Figures) -> serde_json::Value {
    json!({
        "crate": row.name,
        "lines_over_100_columns": row.long_lines,
        "names_at_the_root": row.names,
        "import_circles": row.circles,
        "comment_share_percent": (row.comment_share() * 10.0).round() / 10.0,
        "files": row.files.len(),
        "file_lines_median": percentile(&row.files, 50),
        "file_lines_p90": percentile(&row.files, 90),
        "functions": row.functions.len(),
        "function_lines_median": percentile(&row.functions, 50),
        "function_lines_p90": percentile(&row.functions, 90),
    })
}

/// As Markdown, so that it can be pasted into the document.
fn table(rows: &[Figures]) -> String {
    let head = [
        "crate",
        "over 100",
        "names",
        "circles",
        "comments",
        "files",
        "median",
        "p90",
        "functions",
        "median",
        "p90",
    ];
    let mut cells: Vec<Vec<String>> = vec![head.map(str::to_owned).to_vec()];
    for row in rows {
        let numbers = [
            percentile(&row.files, 50),
            percentile(&row.files, 90),
            row.functions.len(),
            percentile(&row.functions, 50),
            percentile(&row.functions, 90),
        ];
        let mut line = vec![
            row.name.clone(),
            row.long_lines.to_string(),
            row.names.map_or("-".to_owned(), |names| names.to_string()),
            row.circles.to_string(),
            format!("{:.0} %", row.comment_share()),
            row.files.len().to_string(),
        ];
        line.extend(numbers.map(|number| number.to_string()));
        cells.push(line);
    }
    let width = |column: usize| cells.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for (number, row) in cells.iter().enumerate() {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let cell =
                if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") };
            text.push_str(&format!("| {cell} "));
        }
        text.push_str("|\n");
        if number == 0 {
            for (column, width) in widths.iter().enumerate() {
                let colon = if column == 0 { '-' } else { ':' };
                text.push_str(&format!("|{}{colon}", "-".repeat(width + 1)));
            }
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_not_counted_and_comments_are_told_from_code() {
        let mut figures = Figures::default();
        let text = "//! Head.\n\n/// Doc.\nfn f() {\n    g();\n}\n\n\
                    #[cfg(test)]\nmod tests {\n    // no\n    fn h() {}\n}\n";
        figures.add(text).expect("it parses");
        assert_eq!((figures.comment_lines, figures.code_lines), (2, 3));
        assert_eq!((&figures.files[..], &figures.functions[..]), (&[7][..], &[3][..]));
        assert_eq!(figures.comment_share().round(), 40.0);
    }

    #[test]
    fn percentiles_of_few_values_are_values() {
        assert_eq!((percentile(&[], 50), percentile(&[7], 90)), (0, 7));
        let ten: Vec<usize> = (1..=10).collect();
        assert_eq!((percentile(&ten, 50), percentile(&ten, 90)), (6, 10));
    }

    #[test]
    fn the_table_is_aligned_markdown() {
        let row = Figures { name: "core".to_owned(), names: Some(60), ..Figures::default() };
        let text = table(&[row]);
        let widths: Vec<usize> = text.lines().map(str::len).collect();
        assert_eq!(widths.len(), 3);
        assert!(widths.windows(2).all(|pair| pair[0] == pair[1]), "{text}");
        assert!(
            text.starts_with("| crate | over 100 |") && text.contains("\n|-------|---------:|")
        );
    }
}
