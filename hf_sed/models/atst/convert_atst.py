def recognises(state):
    return False
