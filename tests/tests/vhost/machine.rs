//! Does QEMU's own front end work with our door, and does its guest live on when marsd is killed?

use std::thread;
use std::time::Duration;

use tests::machine::{GUEST_SECTORS, Machine, boot_sector, guest_sector};
use tests::{Client, Cluster, Options};

#[test]
fn a_virtual_machine_boots_from_a_volume_and_survives_the_death_of_marsd() {
    let cluster = Cluster::start(&["a", "b"]);
    cluster.create("web", "8M", &["a", "b"]);
    let target = cluster.attach("web", "b");
    let client = Client::open(&target, Options::default()).unwrap();
    client.write(0, Vec::from(boot_sector()), true).unwrap();
    let mut machine = Machine::boot(&cluster.attach_vhost("web", "a"));
    let mut kills = 0;
    while kills < 5 {
        thread::sleep(Duration::from_millis(700));
        if !machine.is_running() {
            break;
        }
        cluster.host("a").marsd().kill();
        cluster.host("a").restart_marsd();
        kills += 1;
    }
    machine.ends_well(Duration::from_secs(300));
    assert!(kills > 0, "the guest was too fast");
    println!("{kills} kills under a virtual machine");
    let client = Client::open(&target, Options::default()).unwrap();
    for sector in GUEST_SECTORS {
        let read = client.read(sector * 512, 512).unwrap();
        assert_eq!(read, guest_sector(sector), "sector {sector}");
    }
    drop(client);
    cluster.wait_for_uptodate("web");
    cluster.assert_identical("web");
}
