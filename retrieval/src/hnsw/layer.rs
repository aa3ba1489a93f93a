//! The links of one layer, while the graph is built.

use super::NO_NEIGHBOUR;

/// For each node its neighbours, at most `width` of them.
pub(super) struct Layer {
    pub(super) links: Vec<Vec<u32>>,
    width: usize,
}

impl Layer {
    pub(super) fn new(width: usize) -> Self {
        Self { links: Vec::new(), width }
    }

    /// Makes links mutual: hnsw_rs forgets the longest link of a full node, even if it was the only one to its target.
    /// A node that then has too many keeps those that are nearer to it than to any that it keeps, and the nearest of the others.
    pub(super) fn link_back(&mut self, distance: impl Fn(u32, u32) -> f32) {
        let forward = self.links.clone();
        for (node, targets) in forward.iter().enumerate() {
            for &target in targets {
                self.links[target as usize].push(node as u32);
            }
        }
        for (node, links) in self.links.iter_mut().enumerate() {
            links.sort_unstable();
            links.dedup();
            *links = spread(node as u32, links, self.width, &distance);
        }
    }

    /// Links every node, so that a search from node 0 that is wide enough finds all: a node that cannot be reached gets a
    /// link from the nearest node around that has room for it, or else from the last one reached that has.
    pub(super) fn link_all(&mut self, distance: impl Fn(u32, u32) -> f32) {
        let mut is_reached = vec![false; self.links.len()];
        let mut with_room = Vec::new();
        self.reach(0, &mut is_reached, &mut with_room);
        for node in 1..self.links.len() as u32 {
            if is_reached[node as usize] {
                continue;
            }
            let around = self.around(node);
            let around = around.filter(|&other| is_reached[other as usize] && self.has_room(other));
            let nearest = around.min_by(|&a, &b| distance(node, a).total_cmp(&distance(node, b)));
            while with_room.pop_if(|last| !self.has_room(*last)).is_some() {}
            if let Some(from) = nearest.or(with_room.last().copied()) {
                self.links[from as usize].push(node);
                self.reach(node, &mut is_reached, &mut with_room);
            }
        }
    }

    /// The neighbours of `node`, and theirs.
    fn around(&self, node: u32) -> impl Iterator<Item = u32> {
        let links = &self.links[node as usize];
        links.iter().chain(links.iter().flat_map(|&link| &self.links[link as usize])).copied()
    }

    fn has_room(&self, node: u32) -> bool {
        self.links[node as usize].len() < self.width
    }

    /// Marks all nodes that links lead to from `start`, and appends those that were not marked before to `reached`.
    fn reach(&self, start: u32, is_reached: &mut [bool], reached: &mut Vec<u32>) {
        is_reached[start as usize] = true;
        let mut open = vec![start];
        while let Some(node) = open.pop() {
            reached.push(node);
            for &link in &self.links[node as usize] {
                if !std::mem::replace(&mut is_reached[link as usize], true) {
                    open.push(link);
                }
            }
        }
    }

    /// `[n_nodes, width]`, filled up with `NO_NEIGHBOUR`.
    pub(super) fn into_rows(self) -> Vec<u32> {
        let mut rows = Vec::with_capacity(self.links.len() * self.width);
        for links in self.links {
            let end = rows.len() + self.width;
            rows.extend(links);
            rows.resize(end, NO_NEIGHBOUR);
        }
        rows
    }
}

/// At most `width` of `links`, in all directions around `node`, nearest first.
fn spread(node: u32, links: &[u32], width: usize, distance: &impl Fn(u32, u32) -> f32) -> Vec<u32> {
    let mut sorted: Vec<(f32, u32)> =
        links.iter().map(|&link| (distance(node, link), link)).collect();
    sorted.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    if sorted.len() <= width {
        return sorted.into_iter().map(|(_, link)| link).collect();
    }
    let mut kept: Vec<(f32, u32)> = Vec::with_capacity(width);
    let mut others = Vec::new();
    for link in sorted {
        let is_apart = kept.iter().all(|&(_, other)| distance(other, link.1) > link.0);
        if is_apart && kept.len() < width { kept.push(link) } else { others.push(link) }
    }
    others.truncate(width - kept.len());
    kept.extend(others);
    kept.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    kept.into_iter().map(|(_, link)| link).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes on a line, at the places of their numbers.
    fn on_a_line(a: u32, b: u32) -> f32 {
        a.abs_diff(b) as f32
    }

    #[test]
    fn a_link_goes_back_unless_nearer_ones_lead_there() {
        let mut layer = Layer { links: vec![vec![], vec![0], vec![1], vec![0]], width: 2 };
        layer.link_back(on_a_line);
        assert_eq!(layer.links, [vec![1, 3], vec![0, 2], vec![1], vec![0]]);
        let mut crowded = Layer { links: vec![vec![], vec![0], vec![0, 1], vec![0]], width: 1 };
        crowded.link_back(on_a_line);
        assert_eq!(crowded.links, [vec![1], vec![0], vec![1], vec![0]]);
    }

    #[test]
    fn a_node_gets_a_link_from_the_nearest_around_that_has_room() {
        let mut layer = Layer { links: vec![vec![2], vec![0], vec![0, 1], vec![1, 2]], width: 2 };
        layer.link_all(on_a_line);
        assert_eq!(layer.links, [vec![2], vec![0, 3], vec![0, 1], vec![1, 2]]);
    }

    #[test]
    fn a_node_without_links_gets_one_from_the_last_one_reached_that_has_room() {
        let mut layer = Layer { links: vec![vec![1], vec![0, 2], vec![1, 0], vec![]], width: 2 };
        layer.link_all(on_a_line);
        assert_eq!(layer.links, [vec![1, 3], vec![0, 2], vec![1, 0], vec![]]);
    }

    #[test]
    fn a_node_without_links_has_a_row_too() {
        let layer = Layer { links: vec![vec![], vec![0]], width: 2 };
        assert_eq!(layer.into_rows(), [NO_NEIGHBOUR, NO_NEIGHBOUR, 0, NO_NEIGHBOUR]);
    }

    #[test]
    fn a_layer_without_room_stays_as_it_is() {
        let mut layer = Layer { links: vec![vec![1], vec![0], vec![0]], width: 1 };
        layer.link_all(on_a_line);
        assert_eq!(layer.links, [[1], [0], [0]]);
    }
}
