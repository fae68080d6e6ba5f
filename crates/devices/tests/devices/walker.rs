//! The walker.

use proptest::prelude::*;
use sva_core::Access;
use sva_core::port::DmaCause;
use sva_devices::{
    GraphSearch, IndexWidth, ListError, ListReport, ListWalk, SearchError, SearchReport,
};
use sva_testkit::PAGE;

use crate::rig::{BASE, Rig, noise};

const NODE: u64 = 48;

/// Puts a list of nodes in this order into memory: the next pointer at 16, a payload of 20 bytes at
/// 24. The last one points to `end`.
fn lay_out(rig: &Rig, order: &[u64], end: u64, seed: u64) -> Vec<u8> {
    let payloads = noise(order.len() * 20, seed);
    for (at, payload) in payloads.chunks(20).enumerate() {
        let next = order.get(at + 1).map_or(end, |next| BASE + next * NODE);
        rig.space.poke(BASE + order[at] * NODE + 16, &next.to_le_bytes());
        rig.space.poke(BASE + order[at] * NODE + 24, payload);
    }
    payloads
}

fn walk(order: &[u64], max_nodes: u64) -> ListWalk {
    ListWalk {
        head: order.first().map_or(0, |node| BASE + node * NODE),
        next_offset: 16,
        payload_offset: 24,
        payload_len: 20,
        max_nodes,
    }
}

fn order(max: usize) -> impl Strategy<Value = Vec<u64>> {
    (0..max).prop_flat_map(|len| Just((0..len as u64).collect::<Vec<_>>()).prop_shuffle())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 3 } else { 100 }))]

    // shows S2
    #[test]
    fn a_list_is_walked_in_its_order(order in order(300), seed: u64) {
        let rig = Rig::new(4);
        let payloads = lay_out(&rig, &order, 0, seed);
        let mut seen = Vec::new();
        let report = rig
            .walker
            .walk_list(rig.pasid, &walk(&order, 300), |_, payload| seen.extend_from_slice(payload))
            .expect("it ends");
        let nodes = order.len() as u64;
        let checksum = crc32c::crc32c(&payloads);
        prop_assert_eq!(report, ListReport { nodes, checksum });
        prop_assert!(seen == payloads);
        let calls = rig.log.take().iter().map(|done| done.call).max().map_or(0, |last| last + 1);
        prop_assert_eq!(calls, nodes, "one call a node");
    }

    // shows S2: a cycle is no hang, wherever it begins
    #[test]
    fn a_cycle_is_found_with_its_length(
        order in order(300).prop_filter("nodes", |order| !order.is_empty()),
        back in any::<prop::sample::Index>(),
        seed: u64,
    ) {
        let rig = Rig::new(4);
        let back = back.index(order.len());
        lay_out(&rig, &order, BASE + order[back] * NODE, seed);
        let mut visited = 0;
        let error = rig
            .walker
            .walk_list(rig.pasid, &walk(&order, u64::MAX), |_, _| visited += 1)
            .expect_err("it has no end");
        let ListError::Cycle { node, length } = error else { panic!("{error}") };
        prop_assert_eq!(length as usize, order.len() - back);
        prop_assert!(order[back..].iter().any(|inside| BASE + inside * NODE == node));
        let most = 3 * order.len() + 2;
        prop_assert!(visited <= most, "{visited} nodes visited, {most} at the most");
    }
}

// shows S2, T5
#[test]
fn a_wild_pointer_ends_the_walk_with_its_address() {
    for (wild, field) in
        [(0xdead_0000, 16), (BASE + 4 * PAGE - 30, 24), (0xffff_8000_0000_0000, 16)]
    {
        let rig = Rig::new(4);
        lay_out(&rig, &[0, 5, 3], wild, 1);
        let error = rig
            .walker
            .walk_list(rig.pasid, &walk(&[0], 10), |_, _| ())
            .expect_err("nothing is there");
        let ListError::Dma { node, index: 3, cause: DmaCause::Fault(fault) } = error else {
            panic!("{error}")
        };
        assert_eq!((node, fault.access), (wild, Access::READ));
        let missing = if field == 16 { wild + 16 } else { BASE + 4 * PAGE };
        assert_eq!(fault.address, missing, "the first byte that is not there");
    }
    let rig = Rig::new(4);
    lay_out(&rig, &[0], u64::MAX - 20, 1);
    let error = rig.walker.walk_list(rig.pasid, &walk(&[0], 10), |_, _| ()).expect_err("it wraps");
    assert!(matches!(error, ListError::Wraps { index: 1, .. }), "{error}");
}

// shows S2
#[test]
fn a_list_that_is_longer_than_asked_for_ends_with_what_comes_next() {
    let rig = Rig::new(4);
    lay_out(&rig, &[4, 2, 7], 0, 1);
    assert_eq!(
        rig.walker.walk_list(rig.pasid, &walk(&[4], 3), |_, _| ()).expect("just enough").nodes,
        3
    );
    let error = rig.walker.walk_list(rig.pasid, &walk(&[4], 2), |_, _| ()).expect_err("too long");
    assert!(
        matches!(error, ListError::TooLong { max: 2, next } if next == BASE + 7 * NODE),
        "{error}"
    );
    let huge = ListWalk { payload_len: u32::MAX, ..walk(&[4], 3) };
    assert!(matches!(
        rig.walker.walk_list(rig.pasid, &huge, |_, _| ()),
        Err(ListError::PayloadTooLarge { .. })
    ));
}

struct Laid {
    rows: Vec<u64>,
    columns: Vec<u64>,
}

/// Compressed rows of these edges.
fn compressed(vertices: usize, edges: &[(usize, usize)]) -> Laid {
    let mut rows = vec![0];
    let mut columns = Vec::new();
    for vertex in 0..vertices {
        columns.extend(edges.iter().filter(|(from, _)| *from == vertex).map(|(_, to)| *to as u64));
        rows.push(columns.len() as u64);
    }
    Laid { rows, columns }
}

fn search(rig: &Rig, laid: &Laid, row_width: IndexWidth, column_width: IndexWidth) -> GraphSearch {
    let bytes = |values: &[u64], width: IndexWidth| -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes()[..width.bytes() as usize].to_vec())
            .collect()
    };
    let (rows, columns) = (BASE + 24, BASE + 8 * PAGE + 4);
    rig.space.poke(rows, &bytes(&laid.rows, row_width));
    rig.space.poke(columns, &bytes(&laid.columns, column_width));
    let vertices = laid.rows.len() as u32 - 1;
    let edges = laid.columns.len() as u64;
    GraphSearch {
        rows,
        row_width,
        columns,
        column_width,
        vertices,
        edges,
        source: 0,
        distances: None,
    }
}

fn reference(vertices: usize, edges: &[(usize, usize)], source: usize) -> Vec<u32> {
    let mut distances = vec![SearchReport::UNREACHED; vertices];
    distances[source] = 0;
    for level in 0..vertices as u32 {
        for (from, to) in edges {
            if distances[*from] == level && distances[*to] == SearchReport::UNREACHED {
                distances[*to] = level + 1;
            }
        }
    }
    distances
}

fn width(wide: bool) -> IndexWidth {
    if wide { IndexWidth::U64 } else { IndexWidth::U32 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 100 }))]

    // shows S2
    #[test]
    fn a_search_finds_every_distance(
        (vertices, edges) in (1usize..200)
            .prop_flat_map(|n| (Just(n), proptest::collection::vec((0..n, 0..n), 0..3 * n))),
        source in any::<prop::sample::Index>(),
        wide_rows: bool,
        wide_columns: bool,
    ) {
        let rig = Rig::new(24);
        let source = source.index(vertices);
        let out = BASE + 20 * PAGE + 3;
        let laid = compressed(vertices, &edges);
        let graph = search(&rig, &laid, width(wide_rows), width(wide_columns));
        let graph = GraphSearch { source: source as u32, distances: Some(out), ..graph };
        let report = rig.walker.search_graph(rig.pasid, &graph).expect("a sound graph");
        let wanted = reference(vertices, &edges, source);
        prop_assert_eq!(&report.distances, &wanted);
        let reached = || wanted.iter().filter(|distance| **distance != SearchReport::UNREACHED);
        prop_assert_eq!(report.reached as usize, reached().count());
        prop_assert_eq!(Some(&report.depth), reached().max());
        let written: Vec<u8> = wanted.iter().flat_map(|distance| distance.to_le_bytes()).collect();
        prop_assert_eq!(rig.space.peek(out, written.len()), written);
    }
}

// shows how the walker batches; no rule of the contract
#[test]
fn a_frontier_is_gathered_in_few_calls_however_scattered_it_is() {
    let rig = Rig::new(24);
    // Every other vertex is in the one frontier, so that no two are neighbours in the arrays.
    let edges: Vec<_> =
        (1..60).map(|leaf| (0, 2 * leaf)).chain((1..60).map(|leaf| (2 * leaf, 0))).collect();
    let graph = search(&rig, &compressed(120, &edges), IndexWidth::U32, IndexWidth::U32);
    rig.walker.search_graph(rig.pasid, &graph).expect("a sound graph");
    let calls = rig.log.take().iter().map(|done| done.call).max().expect("some") + 1;
    // The chunk of 256 bytes holds the offsets of 32 vertices, or 64 column indices.
    assert_eq!(calls, 1 + 1 + 2 + 2);
}

// shows S2: offsets that contradict each other
#[test]
fn a_graph_that_contradicts_itself_is_refused_where_it_does() {
    let edges = [(0, 1), (0, 2), (1, 3), (2, 3)];
    let run = |change: &dyn Fn(&mut Laid), extra: &dyn Fn(&mut GraphSearch)| {
        let rig = Rig::new(24);
        let mut laid = compressed(4, &edges);
        change(&mut laid);
        let mut graph = search(&rig, &laid, IndexWidth::U64, IndexWidth::U64);
        extra(&mut graph);
        rig.walker.search_graph(rig.pasid, &graph).expect_err("not sound")
    };
    let same = |_: &mut GraphSearch| ();
    let error = run(&|laid| laid.rows[2] = 1, &same);
    assert!(
        matches!(error, SearchError::RowOffsets { vertex: 1, start: 2, end: 1, edges: 4 }),
        "{error}"
    );
    let error = run(&|laid| laid.rows[1] = u64::MAX, &same);
    assert!(
        matches!(error, SearchError::RowOffsets { vertex: 0, start: 0, end: u64::MAX, edges: 4 }),
        "{error}"
    );
    let error = run(&|laid| laid.columns[1] = 4, &same);
    assert!(matches!(error, SearchError::Column { edge: 1, column: 4, vertices: 4 }), "{error}");
    let error = run(&|laid| laid.columns[2] = 1 << 32, &same);
    assert!(
        matches!(error, SearchError::Column { edge: 2, column: 0x1_0000_0000, vertices: 4 }),
        "{error}"
    );
    let error = run(&|_| (), &|graph| graph.source = 4);
    assert!(
        matches!(error, SearchError::NoSuchSource { source_vertex: 4, vertices: 4 }),
        "{error}"
    );
    let error = run(&|_| (), &|graph| graph.vertices = u32::MAX);
    assert!(matches!(error, SearchError::TooManyVertices { .. }), "{error}");
    let error = run(&|_| (), &|graph| graph.columns = u64::MAX - 8);
    assert!(matches!(error, SearchError::Wraps { len: 32, .. }), "{error}");
    let error = run(&|_| (), &|graph| graph.columns = 0x5000);
    let SearchError::Dma { reached: 1, cause: DmaCause::Fault(fault) } = error else {
        panic!("{error}")
    };
    assert_eq!(fault.address, 0x5000);
    let error = run(&|_| (), &|graph| graph.distances = Some(BASE + 24 * PAGE - 8));
    let SearchError::Dma { reached: 4, cause: DmaCause::Fault(fault) } = error else {
        panic!("{error}")
    };
    assert_eq!(fault.access, Access::WRITE);
}

// shows S2: a process that changes its graph under the search cannot make it longer than the graph
// was said to be
#[test]
fn rows_that_grow_while_they_are_read_end_the_search() {
    use std::sync::Arc;
    let rig = Rig::new(24);
    let star: Vec<_> = (1..=40).map(|leaf| (0, leaf)).collect();
    let graph = search(&rig, &compressed(41, &star), IndexWidth::U64, IndexWidth::U64);
    let space = Arc::downgrade(&rig.space);
    // While the page with the neighbours of vertex 0 is brought in, vertex 1 comes to claim the
    // same ones.
    let columns = BASE + 12 * PAGE;
    let neighbours: Vec<u8> = (1..=40u64).flat_map(|leaf| leaf.to_le_bytes()).collect();
    rig.space.poke(columns, &neighbours);
    rig.space.absent(columns, PAGE);
    rig.space.on_resolve(move |_| {
        if let Some(space) = space.upgrade() {
            space.poke(BASE + 24 + 8, &0u64.to_le_bytes());
        }
        true
    });
    let error =
        rig.walker.search_graph(rig.pasid, &GraphSearch { columns, ..graph }).expect_err("it grew");
    assert!(matches!(error, SearchError::TooManyEdges { edges: 40 }), "{error}");
}
