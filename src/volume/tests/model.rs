//! Random operations on two volumes, compared with a model.

use super::*;

/// The expected content of a volume: names of files, and their content. Two names of a file share
/// it.
#[derive(Clone, Default)]
struct Model {
    names: BTreeMap<String, usize>,
    contents: BTreeMap<usize, Vec<u8>>,
}

/// An operation on one of the volumes "a" and "b".
#[derive(Clone, Copy, Debug)]
enum VolumeOp {
    Create(u8),
    Write(u8, u16, u16),
    Truncate(u8, u16),
    Link(u8, u8),
    Rename(u8, u8),
    Remove(u8),
    Recycle,
    /// Makes the other volume a copy of this one.
    Clone,
}

fn op() -> impl Strategy<Value = (bool, VolumeOp)> {
    let op = prop_oneof![
        4 => any::<u8>().prop_map(VolumeOp::Create),
        6 => any::<(u8, u16, u16)>().prop_map(|(n, at, len)| VolumeOp::Write(n, at, len % 9000)),
        2 => any::<(u8, u16)>().prop_map(|(n, size)| VolumeOp::Truncate(n, size)),
        2 => any::<(u8, u8)>().prop_map(|(n, m)| VolumeOp::Link(n, m)),
        3 => any::<(u8, u8)>().prop_map(|(n, m)| VolumeOp::Rename(n, m)),
        2 => any::<u8>().prop_map(VolumeOp::Remove),
        1 => Just(VolumeOp::Recycle),
        1 => Just(VolumeOp::Clone),
    ];
    (any::<bool>(), op)
}

fn called(n: u8) -> String {
    format!("n{}", n % 5)
}

impl Model {
    fn apply(&mut self, op: VolumeOp) {
        let content = |model: &Self, n| model.names.get(&called(n)).copied();
        match op {
            VolumeOp::Create(n) if content(self, n).is_none() => {
                let file = self.contents.keys().last().map_or(0, |last| last + 1);
                self.contents.insert(file, Vec::new());
                self.names.insert(called(n), file);
            }
            VolumeOp::Write(n, at, len) => {
                let Some(file) = content(self, n) else { return };
                let (content, at) = (self.contents.get_mut(&file).unwrap(), usize::from(at));
                content.resize(content.len().max(at + usize::from(len)), 0);
                content[at..at + usize::from(len)].fill(7);
            }
            VolumeOp::Truncate(n, size) => {
                let Some(file) = content(self, n) else { return };
                self.contents.get_mut(&file).unwrap().resize(size.into(), 0);
            }
            VolumeOp::Link(n, m) if content(self, m).is_none() => {
                content(self, n).map(|file| self.names.insert(called(m), file));
            }
            VolumeOp::Rename(n, m) if content(self, n) != content(self, m) => {
                let file = self.names.remove(&called(n));
                file.map(|file| self.names.insert(called(m), file));
            }
            VolumeOp::Remove(n) => drop(self.names.remove(&called(n))),
            VolumeOp::Recycle => *self = Self::default(),
            VolumeOp::Create(_) | VolumeOp::Link(..) | VolumeOp::Rename(..) | VolumeOp::Clone => {}
        }
    }

    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        self.names.iter().map(|(name, file)| (name.clone(), self.contents[file].clone())).collect()
    }
}

impl TestRun {
    /// Applies an operation of a client or an administrator. An impossible one is refused.
    fn apply(&self, of: &str, other: &str, op: VolumeOp) {
        let path = format!("/{of}").into_bytes();
        let export = self.exports.load().locate(&path).map(|(export, _)| export.id).unwrap();
        let files = Files::of(&self.fs, export);
        let root = files.root();
        let _ = match op {
            VolumeOp::Create(n) => files.create(&root, &called(n)).map(drop),
            VolumeOp::Write(n, at, len) => files
                .find(&root, &called(n))
                .and_then(|file| files.write(&file, at.into(), len.into()).map(drop)),
            VolumeOp::Truncate(n, size) => {
                files.find(&root, &called(n)).and_then(|file| files.truncate(&file, size.into()))
            }
            VolumeOp::Link(n, m) => {
                files.find(&root, &called(n)).and_then(|file| files.link(&file, &root, &called(m)))
            }
            VolumeOp::Rename(n, m) => files.rename((&root, &called(n)), (&root, &called(m))),
            VolumeOp::Remove(n) => files.remove(&root, &called(n)),
            VolumeOp::Recycle => {
                self.volumes.reclaim(&name(of), Some(OnDelete::Recycle)).unwrap();
                Ok(())
            }
            VolumeOp::Clone => {
                self.volumes.reclaim(&name(other), Some(OnDelete::Delete)).unwrap();
                self.volumes.create(spec(other), VolumeOrigin::Clone(name(of))).unwrap();
                self.settled(other);
                Ok(())
            }
        };
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn volumes_hold_what_was_done_to_them_and_use_what_du_finds(
        ops in prop::collection::vec(op(), 1..60),
    ) {
        let place = VolumesDirectory::new();
        let run = place.open();
        let mut models = [Model::default(), Model::default()];
        run.create("a").unwrap();
        run.create("b").unwrap();
        for (n, (second, op)) in ops.iter().enumerate() {
            let (one, other) = if *second { (1, 0) } else { (0, 1) };
            run.apply(["a", "b"][one], ["a", "b"][other], *op);
            models[one].apply(*op);
            if let VolumeOp::Clone = op {
                models[other] = models[one].clone();
            }
            if n % 10 != 9 && n + 1 != ops.len() {
                continue;
            }
            run.fs.flush_all();
            for (of, model) in ["a", "b"].into_iter().zip(&models) {
                let found: BTreeMap<_, _> = fs::read_dir(place.path(of)).unwrap()
                    .map(|entry| entry.unwrap())
                    .map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap()))
                    .collect();
                prop_assert!(found == model.files(), "{of} after {op:?}");
                let status = run.settled(of);
                let used = Usage { bytes: status.used, inodes: status.inodes_used };
                prop_assert_eq!(used, du(&place.path(of)));
            }
        }
    }
}
