# The base guest's kernel command line. The guest runs one user's builds and trusts them as much as that user does.
"panic=-1 quiet mitigations=off audit=0 nowatchdog random.trust_cpu=on"
