//! Endpoints that differ in one segment with very many values are one: `/users/alice`, `/users/bob` … are `/users/{name}`.
//!
//! Owns what has been learned. Memory is bounded: so many names a place, so many in all; what comes beyond keeps its own
//! name. Cost: a walk over a name's segments.

use hashbrown::HashMap;

const NAME: &str = "{name}";
const ANY: &str = "*";

/// Segments and what follows them; a node with NAME in it is folded, and holds nothing else.
#[derive(Default)]
struct Node(HashMap<Box<str>, Node, ahash::RandomState>);

impl Node {
    fn folded(&self) -> bool {
        self.0.contains_key(NAME)
    }

    fn below(&mut self, segment: &str) -> &mut Node {
        self.0.entry_ref(segment).or_default()
    }

    /// All segments become NAME; what followed each of them follows that.
    fn collapse(&mut self, most: usize) {
        let mut merged = Node::default();
        for (_, child) in std::mem::take(&mut self.0) {
            merged.merge(child, most);
        }
        self.0.insert(NAME.into(), merged);
    }

    /// All that is below two nodes, below one.
    fn merge(&mut self, other: Node, most: usize) {
        if other.folded() && !self.folded() {
            self.collapse(most);
        }
        for (segment, child) in other.0 {
            let folded = self.folded();
            self.below(if folded { NAME } else { &segment })
                .merge(child, most);
        }
        if !self.folded() && self.0.len() > most {
            self.collapse(most);
        }
    }
}

pub struct Folding {
    /// By the number of segments: only names of one length are siblings.
    roots: HashMap<usize, Node>,
    nodes: usize,
    most: usize,
    most_nodes: usize,
    news: Vec<String>,
}

impl Folding {
    /// `most`: names a place that stay. `most_nodes`: in all.
    pub fn new(most: usize, most_nodes: usize) -> Self {
        Folding {
            roots: HashMap::default(),
            nodes: 0,
            most,
            most_nodes,
            news: Vec::new(),
        }
    }

    /// Places that were folded since somebody asked, such as `/users/{name}/*`.
    pub fn take_news(&mut self) -> Vec<String> {
        std::mem::take(&mut self.news)
    }

    /// Segments that are remembered.
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// Learns from a name.
    pub fn learn(&mut self, endpoint: &str) {
        let count = segments(endpoint);
        let mut path: Vec<&str> = Vec::new();
        let mut parts = endpoint.split('/');
        let first = parts.next().unwrap_or("");
        let mut node = self.roots.entry(count).or_default().below(first);
        path.push(first);
        for (n, segment) in parts.enumerate() {
            let full = |node: &Node| !node.0.contains_key(segment) && node.0.len() >= self.most;
            if !node.folded() && (segment == NAME || full(node)) {
                node.collapse(self.most);
                let rest = count - n - 2;
                let place = [&path[..], &[NAME], &vec![ANY; rest][..]].concat();
                self.news.push(place.join("/"));
            }
            let step = if node.folded() { NAME } else { segment };
            if !node.0.contains_key(step) {
                if self.nodes >= self.most_nodes {
                    return;
                }
                self.nodes += 1;
            }
            path.push(step);
            node = node.below(step);
        }
    }

    /// What an endpoint is called now.
    pub fn name(&self, endpoint: &str) -> String {
        let mut parts = endpoint.split('/');
        let first = parts.next().unwrap_or("");
        let root = self.roots.get(&segments(endpoint));
        let mut node = root.and_then(|root| root.0.get(first));
        let mut out = String::with_capacity(endpoint.len());
        out.push_str(first);
        for segment in parts {
            let step = if node.is_some_and(Node::folded) {
                NAME
            } else {
                segment
            };
            out.push('/');
            out.push_str(step);
            node = node.and_then(|node| node.0.get(step));
        }
        out
    }

    /// Every folded place, as a pattern: `*` is what follows it.
    pub fn places(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (&count, root) in &self.roots {
            walk(root, &mut Vec::new(), count, &mut found);
        }
        found.sort_unstable();
        found
    }

    /// Folds what `places` of an earlier run says.
    pub fn fold_at(&mut self, place: &str) {
        let parts: Vec<&str> = place.split('/').collect();
        let last = parts.iter().rposition(|s| *s == NAME).unwrap_or(0);
        let mut node = self.roots.entry(parts.len()).or_default();
        for segment in &parts[..=last] {
            if *segment == NAME && !node.folded() {
                node.collapse(self.most);
            }
            node = node.below(segment);
        }
    }
}

fn segments(endpoint: &str) -> usize {
    endpoint.bytes().filter(|c| *c == b'/').count() + 1
}

fn walk<'a>(node: &'a Node, path: &mut Vec<&'a str>, left: usize, found: &mut Vec<String>) {
    for (segment, child) in &node.0 {
        if &**segment == NAME && !path.is_empty() {
            let place = [&path[..], &[NAME], &vec![ANY; left - 1][..]].concat();
            found.push(place.join("/"));
        }
        path.push(segment);
        walk(child, path, left - 1, found);
        path.pop();
    }
}
