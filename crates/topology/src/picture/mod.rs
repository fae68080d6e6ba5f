//! Pictures of a machine and its groups: as text, as SVG, as HTML.
//!
//! All three draw one scene: the hierarchy with a group, a kind and ACS indicators for each
//! function. Foreign names are made printable there, once; SVG and HTML escape them as well.
//!
//! Uses `acs`, `machine` and `groups`.
//!
//! | module | what it does |
//! |---|---|
//! | `scene` | what is drawn, without places |
//! | `text` | the tree for a terminal |
//! | `measure` | how wide a text may come out |
//! | `shapes` | rectangles and texts with their places |
//! | `boxes` | the box of one function |
//! | `layout` | places: boxes, links, regions, texts |
//! | `style` | colours and classes, light and dark |
//! | `svg`, `html` | the drawing, and a page around it |

mod boxes;
mod html;
mod layout;
mod measure;
mod scene;
mod shapes;
mod style;
mod svg;
#[cfg(test)]
mod tests;
mod text;

pub use html::html;
pub use svg::svg;
pub use text::{text, text_within};
