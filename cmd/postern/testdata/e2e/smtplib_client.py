"""Delivers one message by Python's smtplib over verified STARTTLS.

Usage: smtplib_client.py HOST PORT SOURCE CAFILE FROM SUBMITTER TO < message
"""
import smtplib
import ssl
import sys

host, port, source, cafile, sender, submitter, recipient = sys.argv[1:]
context = ssl.create_default_context(cafile=cafile)
with smtplib.SMTP("127.0.0.1", int(port), local_hostname="mx.sender.example",
                  timeout=30, source_address=(source, 0)) as client:
    client._host = host  # the name that the certificate must bear
    client.starttls(context=context)
    client.ehlo()
    assert client.has_extn("submitter"), client.esmtp_features
    assert not client.has_extn("starttls"), client.esmtp_features
    refused = client.sendmail(sender, [recipient], sys.stdin.buffer.read(),
                              mail_options=["BODY=8BITMIME", "SUBMITTER=" + submitter])
    assert not refused, refused
    print("TLS", client.sock.version())
