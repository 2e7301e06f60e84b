"""The standard load: OpenStack-shaped legacy notifications, one JSON a line.

Each line is what a service of the cloud puts on the wire: the oslo.messaging envelope 2.0,
``{"oslo.version": "2.0", "oslo.message": "<inner JSON>"}``. The output depends on --count, --seed,
--start and --span only.

    python -m benchmarks.make_load --count 20000 --seed 1 > load.jsonl
"""

import argparse
import datetime
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# event type -> share of the mix (normalised below)
MIX = [
    ("compute.instance.update", 300),
    ("compute.instance.exists", 140),
    ("compute.instance.create.start", 40),
    ("compute.instance.create.end", 40),
    ("compute.instance.delete.start", 25),
    ("compute.instance.delete.end", 25),
    ("compute.instance.shutdown.start", 10),
    ("compute.instance.shutdown.end", 10),
    ("compute.instance.power_off.start", 6),
    ("compute.instance.power_off.end", 6),
    ("compute.instance.power_on.start", 6),
    ("compute.instance.power_on.end", 6),
    ("compute.instance.resize.prep.end", 4),
    ("volume.exists", 45),
    ("volume.create.start", 15),
    ("volume.create.end", 15),
    ("volume.attach.start", 12),
    ("volume.attach.end", 12),
    ("volume.detach.start", 8),
    ("volume.detach.end", 8),
    ("volume.delete.start", 10),
    ("volume.delete.end", 10),
    ("snapshot.create.start", 4),
    ("snapshot.create.end", 4),
    ("port.create.start", 22),
    ("port.create.end", 22),
    ("port.update.start", 22),
    ("port.update.end", 22),
    ("port.delete.start", 10),
    ("port.delete.end", 10),
    ("network.create.end", 5),
    ("network.update.end", 3),
    ("subnet.create.end", 5),
    ("router.create.end", 3),
    ("floatingip.update.end", 8),
    ("image.create", 5),
    ("image.update", 10),
    ("image.upload", 5),
    ("image.delete", 4),
    ("identity.authenticate", 70),
    ("identity.user.created", 4),
    ("identity.user.updated", 3),
    ("identity.project.created", 4),
    ("identity.role_assignment.created", 4),
]

FLAVORS = [
    ("m1.tiny", 512, 1, 1),
    ("m1.small", 2048, 20, 1),
    ("m1.medium", 4096, 40, 2),
    ("m1.large", 8192, 80, 4),
    ("m1.xlarge", 16384, 160, 8),
]
STATES = ["active", "building", "stopped", "deleted", "resized", "error"]
TASKS = [
    None,
    "scheduling",
    "block_device_mapping",
    "networking",
    "spawning",
    "powering-off",
    "powering-on",
    "deleting",
]
DISTROS = [("ubuntu", "20.04"), ("centos", "8"), ("debian", "11")]


class Maker:
    def __init__(self, seed: int, start: datetime.datetime, span: float) -> None:
        self.r = random.Random(seed)
        self.start = start
        self.span = span
        self.projects = [self.hexid() for _ in range(200)]
        # a few projects make most of the traffic, as in a real cloud
        self.pweights = [1.0 / (i + 1) ** 0.7 for i in range(200)]
        self.users = {p: [self.hexid() for _ in range(3)] for p in self.projects}
        self.hosts = [f"cmp{i:03d}" for i in range(1, 61)]
        self.images = [self.uuid() for _ in range(25)]
        self.networks = [self.uuid() for _ in range(80)]
        self.instances = [self.uuid() for _ in range(3000)]
        self.volumes = [self.uuid() for _ in range(1500)]
        self.ports = [self.uuid() for _ in range(4000)]

    def bits(self, n: int) -> int:
        return self.r.getrandbits(n)

    def hexid(self) -> str:
        return f"{self.bits(128):032x}"

    def uuid(self) -> str:
        h = f"{self.bits(128):032x}"
        return "-".join((h[:8], h[8:12], "4" + h[13:16], "8" + h[17:20], h[20:]))

    def ago(self, now: datetime.datetime, most: float) -> datetime.datetime:
        return now - datetime.timedelta(seconds=self.r.uniform(1, most))

    @staticmethod
    def t(dt: datetime.datetime, sep: str = " ", micro: bool = True) -> str:
        s = dt.strftime("%Y-%m-%d" + sep + "%H:%M:%S")
        return f"{s}.{dt.microsecond:06d}" if micro else s

    def ip(self) -> str:
        return f"10.{self.r.randint(0, 255)}.{self.r.randint(0, 255)}.{self.r.randint(2, 254)}"

    def mac(self) -> str:
        return f"fa:16:3e:{self.bits(8):02x}:{self.bits(8):02x}:{self.bits(8):02x}"

    def context(self, project: str, user: str, now: datetime.datetime, service: str) -> dict[str, Any]:
        name = f"project-{project[:8]}"
        ctxt: dict[str, Any] = {
            "_context_request_id": "req-" + self.uuid(),
            "_context_global_request_id": None,
            "_context_user": user,
            "_context_user_id": user,
            "_context_user_name": f"user-{user[:6]}",
            "_context_tenant": project,
            "_context_project_id": project,
            "_context_project_name": name,
            "_context_domain": None,
            "_context_user_domain": "default",
            "_context_project_domain": "default",
            "_context_user_identity": f"{user} {project} - default default",
            "_context_is_admin": False,
            "_context_is_admin_project": True,
            "_context_read_only": False,
            "_context_show_deleted": False,
            "_context_resource_uuid": None,
            "_context_roles": ["reader", "member"],
            "_context_auth_token": None,
            "_context_timestamp": self.t(now, "T"),
        }
        if service == "nova":
            ctxt.update(
                {
                    "_context_remote_address": self.ip(),
                    "_context_read_deleted": "no",
                    "_context_quota_class": None,
                    "_context_service_catalog": [
                        {
                            "type": "volumev3",
                            "name": "cinderv3",
                            "endpoints": [
                                {
                                    "region": "RegionOne",
                                    "publicURL": "http://volume.example.org:8776/v3/" + project,
                                    "internalURL": "http://volume.internal:8776/v3/" + project,
                                }
                            ],
                        }
                    ],
                    "_context_instance_lock_checked": False,
                }
            )
        elif service == "neutron":
            ctxt.update({"_context_tenant_id": project, "_context_tenant_name": name})
        elif service == "cinder":
            ctxt.update(
                {
                    "_context_remote_address": self.ip(),
                    "_context_read_deleted": "no",
                    "_context_quota_class": None,
                    "_context_message_resource_id": None,
                }
            )
        return ctxt

    # payloads -------------------------------------------------------------

    def instance(self, etype: str, project: str, user: str, now: datetime.datetime) -> dict[str, Any]:
        r = self.r
        name, mem, disk, vcpus = r.choice(FLAVORS)
        distro, version = r.choice(DISTROS)
        image = r.choice(self.images)
        created = self.ago(now, 40 * 86400)
        deleted = ".delete.end" in etype or (etype.endswith("exists") and r.random() < 0.05)
        building = ".create.start" in etype
        node = r.choice(self.hosts)
        p: dict[str, Any] = {
            "tenant_id": project,
            "user_id": user,
            "instance_id": r.choice(self.instances),
            "display_name": f"vm-{self.bits(24):06x}",
            "reservation_id": f"r-{self.bits(32):08x}",
            "hostname": f"vm-{self.bits(24):06x}",
            "instance_type": name,
            "instance_type_id": r.randint(1, 40),
            "instance_flavor_id": str(r.randint(1, 40)),
            "architecture": "x86_64",
            "memory_mb": mem,
            "disk_gb": disk,
            "vcpus": vcpus,
            "root_gb": disk,
            "ephemeral_gb": 0,
            "host": node,
            "node": node + ".example.org",
            "availability_zone": r.choice(["nova", "az1", "az2"]),
            "cell_name": "",
            "os_type": None,
            "kernel_id": "",
            "ramdisk_id": "",
            "access_ip_v4": None,
            "access_ip_v6": None,
            "created_at": self.t(created, " ", False) + "+00:00",
            "launched_at": "" if building else self.t(created, "T"),
            "terminated_at": "",
            "deleted_at": self.t(now, "T") if deleted else "",
            "image_ref_url": "http://image.example.org:9292/images/" + image,
            "image_meta": {
                "base_image_ref": image,
                "container_format": "bare",
                "disk_format": "qcow2",
                "min_disk": str(disk),
                "min_ram": "0",
                "hw_disk_bus": "virtio",
                "hw_vif_model": "virtio",
                "org.openstack__1__architecture": "x64",
                "org.openstack__1__os_distro": distro,
                "org.openstack__1__os_version": version,
            },
            "metadata": {"owner": f"team-{r.randint(1, 40)}", "metering.stack": self.uuid()},
            "state": "building" if building else "deleted" if deleted else "active",
            "state_description": "",
            "progress": "",
        }
        if etype.endswith(".update"):
            p.update(
                {
                    "old_state": r.choice(STATES[:3]),
                    "state": r.choice(STATES),
                    "old_task_state": r.choice(TASKS),
                    "new_task_state": r.choice(TASKS),
                    "state_description": r.choice(TASKS) or "",
                    "audit_period_beginning": self.t(now.replace(minute=0, second=0, microsecond=0), "T"),
                    "audit_period_ending": self.t(now, "T"),
                    "bandwidth": {},
                    "tags": [],
                }
            )
        elif etype.endswith(".exists"):
            end = now.replace(minute=0, second=0, microsecond=0)
            p.update(
                {
                    "audit_period_beginning": self.t(end - datetime.timedelta(hours=1), " ", False),
                    "audit_period_ending": self.t(end, " ", False),
                    "bandwidth": {"public": {"bw_in": self.bits(36), "bw_out": self.bits(36)}},
                }
            )
        elif ".create.end" in etype or ".power_o" in etype:
            p["fixed_ips"] = [
                {
                    "version": 4,
                    "vif_mac": self.mac(),
                    "floating_ips": [],
                    "label": f"net-{self.bits(16):04x}",
                    "meta": {},
                    "address": self.ip(),
                    "type": "fixed",
                }
            ]
            if ".create.end" in etype:
                p["message"] = "Success"
        if ".create." in etype:
            p["image_name"] = f"{distro}-{version}"
        return p

    def volume(self, etype: str, project: str, user: str, now: datetime.datetime) -> dict[str, Any]:
        r = self.r
        vol = r.choice(self.volumes)
        attached = (
            ".attach.end" in etype
            or ".detach.start" in etype
            or (etype == "volume.exists" and r.random() < 0.6)
        )
        created = self.t(self.ago(now, 40 * 86400), "T", False) + "+00:00"
        status = {
            "create.start": "creating",
            "create.end": "available",
            "attach.start": "attaching",
            "attach.end": "in-use",
            "detach.start": "detaching",
            "detach.end": "available",
            "delete.start": "deleting",
            "delete.end": "deleting",
        }.get(etype.split(".", 1)[1], "available")
        if etype.startswith("snapshot"):
            return {
                "availability_zone": "nova",
                "created_at": created,
                "deleted": "",
                "display_name": f"snap-{self.bits(24):06x}",
                "snapshot_id": self.uuid(),
                "status": status,
                "tenant_id": project,
                "user_id": user,
                "volume_id": vol,
                "volume_size": r.choice([1, 10, 50, 100]),
                "metadata": {"origin": f"backup-job-{r.randint(1, 500)}"},
            }
        p: dict[str, Any] = {
            "availability_zone": r.choice(["nova", "az1", "az2"]),
            "created_at": created,
            "launched_at": "" if "create.start" in etype else created,
            "display_name": f"vol-{self.bits(24):06x}",
            "host": f"blk{r.randint(1, 12):02d}@lvm#LVM",
            "replication_status": None,
            "replication_driver_data": None,
            "replication_extended_status": None,
            "size": r.choice([1, 5, 10, 20, 50, 100, 500]),
            "snapshot_id": None,
            "status": status,
            "tenant_id": project,
            "user_id": user,
            "volume_id": vol,
            "volume_type": self.uuid(),
            "metadata": [{"key": "readonly", "value": "False"}, {"key": "attached_mode", "value": "rw"}],
            "volume_attachment": [],
            "glance_metadata": [],
        }
        if attached:
            p["volume_attachment"] = [
                {
                    "id": self.uuid(),
                    "volume_id": vol,
                    "instance_uuid": r.choice(self.instances),
                    "attached_host": r.choice(self.hosts),
                    "mountpoint": "/dev/vdb",
                    "attach_mode": "rw",
                    "attach_status": "attached",
                    "attach_time": created,
                    "detach_time": None,
                    "connection_info": None,
                    "created_at": created,
                    "updated_at": created,
                    "deleted_at": None,
                    "deleted": False,
                    "connector": None,
                }
            ]
        if r.random() < 0.4:
            p["glance_metadata"] = [
                {
                    "key": k,
                    "value": v,
                    "id": r.randint(1, 99999),
                    "volume_id": vol,
                    "created_at": created,
                    "deleted": False,
                    "deleted_at": None,
                    "updated_at": None,
                    "snapshot_id": None,
                }
                for k, v in (("image_id", r.choice(self.images)), ("container_format", "bare"))
            ]
        if etype == "volume.exists":
            end = now.replace(minute=0, second=0, microsecond=0)
            p["audit_period_beginning"] = self.t(end - datetime.timedelta(hours=1), " ", False)
            p["audit_period_ending"] = self.t(end, " ", False)
        return p

    def network(self, etype: str, project: str, now: datetime.datetime) -> dict[str, Any]:
        r = self.r
        kind, verb, phase = etype.split(".")
        stamp = self.t(now, "T", False) + "Z"
        if verb == "delete":
            p: dict[str, Any] = {"port_id": r.choice(self.ports)}
            if phase == "end":
                p["port"] = {
                    "id": p["port_id"],
                    "network_id": r.choice(self.networks),
                    "tenant_id": project,
                    "name": "",
                    "fixed_ips": [{"subnet_id": self.uuid(), "ip_address": self.ip()}],
                }
                p["id"] = p["port_id"]
            return p
        body: dict[str, Any] = {
            "tenant_id": project,
            "project_id": project,
            "created_at": stamp,
            "updated_at": stamp,
            "description": "",
            "tags": [],
            "revision_number": r.randint(1, 20),
        }
        if kind == "port":
            iid = r.choice(self.instances)
            host = r.choice(self.hosts)
            if verb == "create" and phase == "start":
                return {
                    "port": {
                        "network_id": r.choice(self.networks),
                        "tenant_id": project,
                        "device_id": iid,
                        "device_owner": "compute:nova",
                        "admin_state_up": True,
                        "security_groups": [self.uuid()],
                        "binding:host_id": host,
                        "name": "",
                    }
                }
            if verb == "update" and phase == "start":
                return {
                    "id": r.choice(self.ports),
                    "port": {
                        "device_id": iid,
                        "device_owner": "compute:nova",
                        "binding:host_id": host,
                        "mac_address": self.mac(),
                        "dns_name": f"vm-{self.bits(24):06x}",
                    },
                }
            body.update(
                {
                    "id": r.choice(self.ports),
                    "name": "",
                    "network_id": r.choice(self.networks),
                    "status": r.choice(["ACTIVE", "DOWN", "BUILD"]),
                    "admin_state_up": True,
                    "mac_address": self.mac(),
                    "device_id": iid,
                    "device_owner": "compute:nova",
                    "fixed_ips": [{"subnet_id": self.uuid(), "ip_address": self.ip()}],
                    "security_groups": [self.uuid()],
                    "allowed_address_pairs": [],
                    "extra_dhcp_opts": [],
                    "port_security_enabled": True,
                    "qos_policy_id": None,
                    "binding:host_id": host,
                    "binding:vif_type": "ovs",
                    "binding:vnic_type": "normal",
                    "binding:profile": {},
                    "binding:vif_details": {
                        "port_filter": True,
                        "ovs_hybrid_plug": True,
                        "datapath_type": "system",
                        "bridge_name": "br-int",
                        "connectivity": "l2",
                    },
                }
            )
        elif kind == "network":
            body.update(
                {
                    "id": r.choice(self.networks),
                    "name": f"net-{self.bits(16):04x}",
                    "status": "ACTIVE",
                    "admin_state_up": True,
                    "shared": False,
                    "mtu": 1450,
                    "subnets": [self.uuid()],
                    "router:external": False,
                    "provider:network_type": "vxlan",
                    "provider:physical_network": None,
                    "provider:segmentation_id": r.randint(1, 9999),
                    "availability_zones": ["nova"],
                    "availability_zone_hints": [],
                    "ipv4_address_scope": None,
                    "ipv6_address_scope": None,
                    "is_default": False,
                    "port_security_enabled": True,
                    "qos_policy_id": None,
                }
            )
        elif kind == "subnet":
            body.update(
                {
                    "id": self.uuid(),
                    "name": f"sub-{self.bits(16):04x}",
                    "network_id": r.choice(self.networks),
                    "ip_version": 4,
                    "cidr": f"10.{self.bits(8)}.{self.bits(8)}.0/24",
                    "gateway_ip": self.ip(),
                    "enable_dhcp": True,
                    "allocation_pools": [{"start": self.ip(), "end": self.ip()}],
                    "dns_nameservers": [],
                    "host_routes": [],
                    "ipv6_ra_mode": None,
                    "ipv6_address_mode": None,
                    "service_types": [],
                    "subnetpool_id": None,
                }
            )
        elif kind == "router":
            body.update(
                {
                    "id": self.uuid(),
                    "name": f"rtr-{self.bits(16):04x}",
                    "status": "ACTIVE",
                    "admin_state_up": True,
                    "distributed": False,
                    "ha": True,
                    "flavor_id": None,
                    "external_gateway_info": {
                        "network_id": r.choice(self.networks),
                        "enable_snat": True,
                        "external_fixed_ips": [{"subnet_id": self.uuid(), "ip_address": self.ip()}],
                    },
                    "availability_zone_hints": [],
                    "availability_zones": ["nova"],
                    "routes": [],
                }
            )
        else:
            body.update(
                {
                    "id": self.uuid(),
                    "status": "ACTIVE",
                    "floating_ip_address": self.ip(),
                    "fixed_ip_address": self.ip(),
                    "floating_network_id": r.choice(self.networks),
                    "router_id": self.uuid(),
                    "port_id": r.choice(self.ports),
                    "port_details": {
                        "name": "",
                        "status": "ACTIVE",
                        "device_id": r.choice(self.instances),
                        "mac_address": self.mac(),
                        "admin_state_up": True,
                    },
                    "dns_domain": "",
                    "dns_name": "",
                }
            )
        return {kind: body}

    def image(self, etype: str, project: str, now: datetime.datetime) -> dict[str, Any]:
        r = self.r
        created = self.t(self.ago(now, 9000), "T", False) + "Z"
        distro, version = r.choice(DISTROS)
        gone = etype == "image.delete"
        fresh = etype == "image.create"
        return {
            "id": r.choice(self.images),
            "name": f"{distro}-{version}",
            "status": "deleted" if gone else "queued" if fresh else "active",
            "owner": project,
            "created_at": created,
            "updated_at": self.t(now, "T", False) + "Z",
            "deleted_at": self.t(now, "T", False) + "Z" if gone else None,
            "deleted": gone,
            "size": None if fresh else self.bits(32),
            "checksum": None if fresh else self.hexid(),
            "disk_format": "qcow2",
            "container_format": "bare",
            "min_disk": 0,
            "min_ram": 0,
            "is_public": False,
            "visibility": "private",
            "protected": False,
            "properties": {
                "os_distro": distro,
                "os_version": version,
                "architecture": "x86_64",
                "hw_disk_bus": "virtio",
            },
        }

    def identity(self, etype: str, project: str, user: str, now: datetime.datetime) -> dict[str, Any]:
        stamp = self.t(now, "T") + "+0000"
        auth = etype == "identity.authenticate"
        host = {
            "address": self.ip(),
            "agent": "python-keystoneclient "
            f"keystoneauth1/4.{self.r.randint(0, 6)} python-requests/2.{self.r.randint(18, 28)}",
        }
        p: dict[str, Any] = {
            "typeURI": "http://schemas.dmtf.org/cloud/audit/1.0/event",
            "eventType": "activity",
            "id": self.uuid(),
            "eventTime": stamp,
            "action": "authenticate" if auth else etype.split(".", 1)[1].replace(".", "_"),
            "outcome": self.r.choices(["success", "failure"], [19, 1])[0],
            "initiator": {
                "typeURI": "service/security/account/user",
                "id": user,
                "name": f"user-{user[:6]}",
                "user_id": user,
                "project_id": project,
                "domain_id": "default",
                "request_id": "req-" + self.uuid(),
                "host": host,
                "username": f"user-{user[:6]}",
            },
            "target": {
                "typeURI": "service/security/account/user"
                if auth
                else "data/security/" + etype.split(".")[1],
                "id": self.uuid(),
            },
            "observer": {"typeURI": "service/security", "id": self.hexid()},
            "attachments": [],
            "tags": [],
        }
        if etype.startswith("identity.role_assignment"):
            p.update({"role": self.hexid(), "project": project, "user": user, "inherited_to_projects": False})
        elif not auth:
            p["resource_info"] = self.hexid()
        return p

    def make(self, etype: str) -> dict[str, Any]:
        r = self.r
        now = self.start + datetime.timedelta(seconds=r.random() * self.span)
        project = r.choices(self.projects, self.pweights)[0]
        user = r.choice(self.users[project])
        family = etype.split(".", maxsplit=1)[0]
        if family == "compute":
            payload = self.instance(etype, project, user, now)
            pub, service = "compute." + payload["host"], "nova"
        elif family in ("volume", "snapshot"):
            payload = self.volume(etype, project, user, now)
            pub, service = f"volume.blk{r.randint(1, 12):02d}@lvm", "cinder"
        elif family == "image":
            payload = self.image(etype, project, now)
            pub, service = f"image.ctl{r.randint(1, 3)}", "glance"
        elif family == "identity":
            payload = self.identity(etype, project, user, now)
            pub, service = f"identity.ctl{r.randint(1, 3)}", "keystone"
        else:
            payload = self.network(etype, project, now)
            pub, service = f"network.ctl{r.randint(1, 3)}", "neutron"
        message = {
            "message_id": self.uuid(),
            "publisher_id": pub,
            "event_type": etype,
            "priority": "INFO",
            "payload": payload,
            "timestamp": self.t(now),
            "_unique_id": self.hexid(),
        }
        message.update(self.context(project, user, now, service))
        return message


def lines(count: int, seed: int, start: datetime.datetime, span: float) -> Iterator[str]:
    maker = Maker(seed, start, span)
    names = [m[0] for m in MIX]
    weights = [m[1] for m in MIX]
    for _ in range(count):
        etype = maker.r.choices(names, weights)[0]
        yield json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(maker.make(etype))})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", default="2024-03-01T00:00:00", help="time of the oldest notification, UTC")
    parser.add_argument("--span", type=float, default=86400, help="seconds over which they are spread")
    parser.add_argument("--output", default="-")
    args = parser.parse_args()
    start = datetime.datetime.fromisoformat(args.start)
    with sys.stdout if args.output == "-" else Path(args.output).open("w") as out:
        out.writelines(line + "\n" for line in lines(args.count, args.seed, start, args.span))


if __name__ == "__main__":
    main()
