//! Which file mentions what another file defines.

use std::collections::BTreeMap;

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, ItemUse, Macro, Path, UseTree, Visibility};

use super::cfg::is_test_only;
use super::modules::{Modules, Target, leaves};

/// One file mentions an item that another defines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Edge {
    /// Where, in the file that mentions it.
    pub(crate) line: usize,
    /// What was written.
    pub(crate) path: String,
}

/// All edges between the files of `modules`, each with the first line that makes it.
///
/// Calls of methods make none: a path alone says which file is meant. So does what the module
/// re-exports, and a path to a module; what is taken from it does.
pub(crate) fn edges(modules: &Modules) -> BTreeMap<(usize, usize), Edge> {
    let mut found = BTreeMap::new();
    for (number, module) in modules.all.iter().enumerate() {
        let mut mentions = Mentions { modules, module: number, edges: &mut found };
        module.items.iter().for_each(|item| mentions.visit_item(item));
    }
    found
}

struct Mentions<'a> {
    modules: &'a Modules,
    module: usize,
    edges: &'a mut BTreeMap<(usize, usize), Edge>,
}

impl Mentions<'_> {
    fn mention(&mut self, segments: &[String], line: usize) {
        let from = self.modules.all[self.module].file;
        let Some(Target::Item(to)) = self.modules.resolve(self.module, segments) else { return };
        if from == to {
            return;
        }
        let edge = Edge { line, path: segments.join("::") };
        let known = self.edges.entry((from, to)).or_insert_with(|| edge.clone());
        if line < known.line {
            *known = edge;
        }
    }

    /// The paths in a macro's arguments, which are no syntax yet.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut line = 0;
        // Colons since the last word of the path; a word behind a dot is a field or a method.
        let (mut colons, mut behind_dot) = (0, false);
        for token in tokens {
            match token {
                TokenTree::Punct(mark) if mark.as_char() == ':' && !path.is_empty() => colons += 1,
                TokenTree::Ident(word) if colons == 2 => {
                    path.push(word.to_string());
                    colons = 0;
                }
                other => {
                    self.finish(&mut path, line);
                    colons = 0;
                    match other {
                        TokenTree::Ident(word) if !behind_dot => {
                            line = start(word.span());
                            path.push(word.to_string());
                        }
                        TokenTree::Group(group) => self.tokens(group.stream()),
                        TokenTree::Punct(mark) => {
                            behind_dot = mark.as_char() == '.';
                            continue;
                        }
                        _ => {}
                    }
                }
            }
            behind_dot = false;
        }
        self.finish(&mut path, line);
    }

    fn finish(&mut self, path: &mut Vec<String>, line: usize) {
        if !path.is_empty() {
            self.mention(path, line);
            path.clear();
        }
    }
}

impl<'ast> Visit<'ast> for Mentions<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !is_test_only(super::modules::attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_test_only(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if !matches!(item.vis, Visibility::Inherited) {
            return;
        }
        let mut lines = Vec::new();
        last_lines(&item.tree, &mut lines);
        let mut lines = lines.into_iter();
        leaves(&item.tree, &mut Vec::new(), &mut |path, name| {
            let line = lines.next().unwrap_or_default();
            if name.is_some() {
                self.mention(path, line);
            }
        });
    }

    fn visit_path(&mut self, path: &'ast Path) {
        if path.leading_colon.is_none() {
            let segments: Vec<String> =
                path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            let line = path.segments.first().map_or(0, |segment| start(segment.ident.span()));
            self.mention(&segments, line);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast Macro) {
        self.visit_path(&item.path);
        self.tokens(item.tokens.clone());
    }

    // `pub(in path)` and attributes say nothing about what the code needs.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}

    fn visit_attribute(&mut self, _: &'ast Attribute) {}
}

/// The line of each leaf, in the order of [`leaves`].
fn last_lines(tree: &UseTree, lines: &mut Vec<usize>) {
    match tree {
        UseTree::Path(path) => last_lines(&path.tree, lines),
        UseTree::Group(group) => group.items.iter().for_each(|tree| last_lines(tree, lines)),
        UseTree::Glob(glob) => lines.push(start(glob.star_token.spans[0])),
        UseTree::Name(name) => lines.push(start(name.ident.span())),
        UseTree::Rename(rename) => lines.push(start(rename.ident.span())),
    }
}

fn start(span: Span) -> usize {
    span.start().line
}
