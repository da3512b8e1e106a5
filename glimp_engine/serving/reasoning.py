class ReasoningSplitter:
    def __init__(self, *a):
        pass

    def push(self, t):
        return "", t

    def finish(self):
        return "", ""
