"""Gives the loopback interface of this network namespace every kind of address that a sandbox must not reach."""
import fcntl
import socket
import struct

V4 = ["169.254.169.254", "10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "1.1.1.1"]
V6 = ["fd00::1", "fd00:ec2::254", "2606:4700:4700::1111"]
SIOCSIFFLAGS, SIOCSIFADDR = 0x8914, 0x8916

s4 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
fcntl.ioctl(s4, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", 1))
for n, address in enumerate(V4, 1):
    packed = struct.pack("16sHH4s8x", f"lo:{n}".encode(), socket.AF_INET, 0, socket.inet_aton(address))
    fcntl.ioctl(s4, SIOCSIFADDR, packed)
for address in V6:
    fcntl.ioctl(s6, SIOCSIFADDR, struct.pack("16sIi", socket.inet_pton(socket.AF_INET6, address), 128, 1))
