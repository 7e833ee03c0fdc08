"""What tools/drill.py drills with: machines, the parts of a run on them, and faults.

machines   network namespaces with cables that can be taken out
shape      which parts a run has, each on a machine of its own
parts      the processes of a part, and the command that starts it
etcd       the members of etcd that a run has, and what they say about it
run        a run: its parts are started, watched and waited for
victims    which part is struck, found out at that moment
faults     what is done to it
"""
