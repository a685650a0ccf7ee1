use super::*;

fn serve(args: &[&str]) -> Result<Config> {
    let args = CommandLine::try_parse_from(["berth", "serve"].iter().chain(args))?;
    match args.command {
        BerthCommand::Serve(serve) => serve.check(true),
        _ => unreachable!("the command is serve"),
    }
}

#[test]
fn a_directory_is_enough() {
    let config = serve(&["./data"]).unwrap();
    assert_eq!(config.source, ExportSource::Directory("./data".into(), Ports::Privileged));
    assert_eq!(config.listen, ["127.0.0.1:2049".parse().unwrap()]);
    assert_eq!((config.portmap, config.admin), (None, None));
    assert_eq!(config.handles, None);
}

#[test]
fn root_serves_a_directory_to_privileged_ports_unless_others_are_wanted() {
    let source = |args: &[&str], is_root| {
        let args = CommandLine::try_parse_from(["berth", "serve", "d"].iter().chain(args)).unwrap();
        match args.command {
            BerthCommand::Serve(serve) => serve.check(is_root).unwrap().source,
            _ => unreachable!("the command is serve"),
        }
    };
    let expected = |ports| ExportSource::Directory("d".into(), ports);
    assert_eq!(source(&[], true), expected(Ports::Privileged));
    assert_eq!(source(&["--insecure"], true), expected(Ports::Any));
    assert_eq!(source(&[], false), expected(Ports::Any));
}

#[test]
fn a_directory_and_an_exports_file_exclude_each_other() {
    assert!(serve(&["./data", "--exports", "exports"]).is_err());
    assert!(serve(&[]).is_err());
}

#[test]
fn memory_is_a_size_of_at_least_the_minimum() {
    let memory = |text| serve(&["d", "--memory", text]).map(|config| config.memory);
    assert_eq!(serve(&["d"]).unwrap().memory, None);
    assert_eq!(memory("64Mi").unwrap(), Some(64 << 20));
    assert!(memory("1Mi").unwrap_err().to_string().contains("16Mi"));
    assert!(memory("much").is_err());
}

#[test]
fn the_portmapper_has_a_default_port() {
    let portmap = |text| serve(&["d", "--portmap", text]).map(|config| config.portmap);
    assert_eq!(portmap("127.0.0.1").unwrap(), Some("127.0.0.1:111".parse().unwrap()));
    assert_eq!(portmap("[::1]:1111").unwrap(), Some("[::1]:1111".parse().unwrap()));
    assert!(portmap("nowhere").is_err());
}

#[test]
fn the_server_and_its_clients_use_the_same_admin_socket() {
    let socket = |args: &[&str]| serve(args).unwrap().admin_socket;
    assert_eq!(socket(&["d"]), PathBuf::from("/run/berth/admin.sock"));
    assert_eq!(socket(&["d", "--admin-socket", "a/b"]), PathBuf::from("a/b"));
    assert_eq!(admin_socket(None, None, true).unwrap(), socket(&["d", "--state", "s"]));
    let state = || Some(PathBuf::from("/state"));
    let rootless = admin_socket(None, state(), false).unwrap();
    assert!(rootless.ends_with("admin.sock") && !rootless.starts_with("/run/berth"));
    assert_eq!(admin_socket(Some("x".into()), state(), false).unwrap(), PathBuf::from("x"));
}

#[test]
fn admin_hosts_have_no_port() {
    let hosts = |text| serve(&["d", "--admin-host", text]).map(|config| config.admin_hosts);
    assert_eq!(hosts("a.example.org,[fd00::1]").unwrap(), ["a.example.org", "[fd00::1]"]);
    assert_eq!(hosts("Berth.").unwrap(), ["Berth."]);
    for wrong in ["a:80", "http://a", "10.0.0.1:80", "a b", "*"] {
        assert!(hosts(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn the_admin_socket_may_be_given_before_or_after_the_subcommand() {
    let socket = |words: &str| {
        let args = CommandLine::try_parse_from(words.split(' ')).unwrap();
        match args.command {
            BerthCommand::Volume(volume) => volume.admin_socket,
            _ => unreachable!("the command is volume"),
        }
    };
    assert_eq!(socket("berth volume --admin-socket s list"), Some("s".into()));
    assert_eq!(socket("berth volume list --admin-socket s"), Some("s".into()));
}

#[test]
fn health_checks_nfs_or_the_admin_socket() {
    let parse = |words: &str| CommandLine::try_parse_from(words.split(' '));
    assert!(parse("berth health").is_ok());
    assert!(parse("berth health --nfs 10.0.0.5:2049").is_ok());
    assert!(parse("berth health --admin-socket s").is_ok());
    assert!(parse("berth health --admin-socket s --nfs 10.0.0.5:2049").is_err());
    assert!(parse("berth health --nfs nowhere").is_err());
}

#[test]
fn a_provisioner_needs_the_address_of_its_server() {
    let with = |more: &[&str]| {
        let args = [&["--volumes", "v", "--provisioner", "example.org/berth"], more].concat();
        serve(&args).map(|config| config.provisioner.unwrap())
    };
    let settings = with(&["--nfs-server", "[fd00::1]", "--namespaces", "a,b"]).unwrap();
    assert_eq!(settings.address, AddressSource::Fixed("fd00::1".into()));
    assert_eq!((settings.lease.as_str(), settings.namespaces.len()), ("example.org-berth", 2));
    let service = AddressSource::Service { namespace: "ns".into(), name: "nfs".into() };
    assert_eq!(with(&["--nfs-service", "ns/nfs"]).unwrap().address, service);
    let check = |more: &[&str]| assert!(with(more).is_err(), "{more:?}");
    check(&[]);
    check(&["--nfs-server", "a b"]);
    check(&["--nfs-server", "10.0.0.1:2049"]);
    check(&["--nfs-service", "nfs"]);
    check(&["--nfs-service", "ns/"]);
    check(&["--nfs-service", "ns/nfs", "--nfs-server", "a"]);
    check(&["--nfs-server", "a", "--lease-name", "A B"]);
    assert!(serve(&["d", "--provisioner", "example.org/b", "--nfs-server", "a"]).is_err());
    for name in ["kubernetes.io/nfs", "a b", "a/b/c"] {
        let args = ["--volumes", "v", "--provisioner", name, "--nfs-server", "a"];
        assert!(serve(&args).is_err(), "{name}");
    }
}

#[test]
fn clap_accepts_the_definitions() {
    use clap::CommandFactory;
    CommandLine::command().debug_assert();
}
